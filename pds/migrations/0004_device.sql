-- A browser in which an account is signed in to this server's own pages. Several accounts of one browser share its cookie, of which only the
-- hash stands here. Neither address nor place is kept; seen is no finer than an hour.
create table device (
	id      text collate "C" primary key,
	hash    bytea not null,
	did     text collate "C" not null references account (did) on delete cascade,
	words   text not null,
	created timestamptz not null,
	seen    timestamptz not null,
	unique (hash, did)
);
create index device_did on device (did);
create index device_seen on device (seen);
