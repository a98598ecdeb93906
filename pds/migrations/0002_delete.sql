-- A word sent by mail with which an account's owner confirms that it is to be deleted. Only its hash is kept.
create table deletion (
	did     text collate "C" primary key references account (did) on delete cascade,
	word    bytea not null,
	tries   int not null default 0,
	expires timestamptz not null
);
