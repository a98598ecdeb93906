-- What somebody reported to this server's operators, until they have dealt with it or it is old.
create table report (
	id      bigint generated always as identity primary key,
	did     text collate "C" not null, -- who reports
	subject text collate "C" not null, -- the DID that it is about, or whose record
	uri     text collate "C",
	cid     text collate "C",
	kind    text not null,
	reason  text,
	created timestamptz not null
);
create index report_did on report (did, created);
create index report_subject on report (subject);
create index report_created on report (created);

-- What an account's apps keep of its wishes, as they wrote it.
create table preference (
	did   text collate "C" primary key references account (did) on delete cascade,
	value text not null
);
