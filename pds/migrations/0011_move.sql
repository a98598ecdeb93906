-- An account that is moving in, from its creation until it is active. since is the revision of the repository that was brought
-- here, null while there was none.
create table arrival (
	did   text collate "C" primary key references account (did) on delete cascade,
	since text collate "C"
);

-- When a deactivated account is to be deleted, where its owner said so.
create table departure (
	did          text collate "C" primary key references account (did) on delete cascade,
	delete_after timestamptz not null
);
create index departure_due on departure (delete_after);

-- A repository on its way in. Its blocks are nobody's until all of it was checked; they are not worth a log of their own.
create table repo_import (
	id    text collate "C" primary key,
	did   text collate "C" not null references account (did) on delete cascade,
	begun timestamptz not null
);
create index repo_import_did on repo_import (did);
create unlogged table repo_import_block (
	import text collate "C" not null,
	did    text collate "C" not null,
	cid    bytea not null,
	bytes  bytea not null,
	primary key (import, cid)
);

-- What records of a repository that was brought here refer to and nobody uploaded yet. An upload turns it into a reference.
create table missing_blob (
	did        text collate "C" not null references account (did) on delete cascade,
	cid        bytea not null,
	collection text collate "C" not null,
	rkey       text collate "C" not null,
	mime       text not null,
	primary key (did, cid, collection, rkey)
);
create index missing_blob_record on missing_blob (did, collection, rkey);

-- A did:web that signs up has no operation; and several may claim one, as only who controls its document comes through.
alter table signup alter column operation drop not null;
alter table signup drop constraint signup_did_key;
create index signup_did on signup (did);

-- Changes that the rest of the network is still to hear of: housekeeping finishes those that a crash stopped.
create table handle_change (
	did   text collate "C" primary key references account (did) on delete cascade,
	since timestamptz not null
);
create table key_change (
	did      text collate "C" primary key references account (did) on delete cascade,
	next_key bytea not null, -- sealed
	since    timestamptz not null
);
