-- When each relay was last asked to read this host's stream, and what it answered, so that several processes ask once between them.
create table relay (
	url    text collate "C" primary key,
	asked  timestamptz not null,
	answer text not null default '' -- empty: it took the request
);
