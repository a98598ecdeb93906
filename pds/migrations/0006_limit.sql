-- Rates that an operator gave one account in place of the server's: more for an import, fewer for a nuisance. No points: no limit.
create table account_limit (
	did     text collate "C" not null references account (did) on delete cascade,
	name    text collate "C" not null,
	points  int not null check (points >= 0),
	seconds bigint not null check (seconds > 0),
	primary key (did, name)
);
