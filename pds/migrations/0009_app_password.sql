-- A password for one application: eighty random bits, so a plain hash keeps them and finds them.
create table app_password (
	did        text collate "C" not null references account (did) on delete cascade,
	name       text collate "C" not null,
	hash       bytea not null,
	privileged boolean not null,
	created    timestamptz not null,
	primary key (did, name),
	unique (did, hash)
);

-- The application's password that opened a session; null: the account's own. Revoking it ends its sessions.
alter table session add column app_password text collate "C";
alter table session add foreign key (did, app_password) references app_password (did, name) on delete cascade;
create index session_app_password on session (did, app_password);
