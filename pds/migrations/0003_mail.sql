-- A word sent by mail, good once and for one purpose. Only its hash is kept. It takes the place of the table deletion, which stays while
-- servers of the last version may still run beside this one.
create table mail_word (
	did     text collate "C" not null references account (did) on delete cascade,
	purpose text collate "C" not null,
	hash    bytea not null,
	tries   int not null default 0 check (tries >= 0),
	expires timestamptz not null,
	primary key (did, purpose),
	unique (purpose, hash)
);
create index mail_word_expires on mail_word (expires);

-- When the owner showed that the address is theirs; null: never, or not since it changed.
alter table account add column email_confirmed timestamptz;
