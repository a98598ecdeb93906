-- The secret that an owner's phone shares with this server, sealed. An owner is an account, by DID, or an operator, by a name that is no DID.
-- It counts once confirmed; step is the last one used, so that no code serves twice.
create table second_factor (
	owner     text collate "C" primary key,
	secret    bytea not null,
	created   timestamptz not null,
	confirmed timestamptz,
	step      bigint not null default 0
);

-- Codes for a lost phone, 80 random bits each. Only hashes are kept; a used one is gone.
create table recovery_code (
	owner text collate "C" not null references second_factor (owner) on delete cascade,
	hash  bytea not null,
	primary key (owner, hash)
);
