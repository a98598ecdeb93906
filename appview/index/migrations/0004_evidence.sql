-- Evidence of a claim that is for its issuer alone. Each object is encrypted under a key of its own, which stands here only encrypted
-- under the key file of this AppView: without the row, a copy of the bytes says nothing.
create table evidence (
    id      bytea primary key check (octet_length(id) = 16),
    owner   text  collate "C" not null,
    task    text  collate "C" not null,
    token   bytea not null check (octet_length(token) = 32),
    mime    text  collate "C" not null,
    size    bigint not null check (size > 0),
    key     bytea not null,
    sealed  bytea not null,
    created timestamptz not null,
    until   timestamptz not null
);
create index evidence_owner on evidence (owner);
create index evidence_claim on evidence (task, token);
create index evidence_until on evidence (until);

create table service_auth_jti (
    key   text primary key collate "C",
    until timestamptz not null
);
create index service_auth_jti_until on service_auth_jti (until);
