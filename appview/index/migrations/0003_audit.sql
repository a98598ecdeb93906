-- Disputes and what the city says to them, the ledger's reports, and who cosigned its log.

create table dispute (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    subject text collate "C" not null, subject_cid text collate "C" not null, kind text not null,
    summary text not null, remedy text not null, created timestamptz not null,
    primary key (did, rkey)
);
create index on dispute (subject);

create table resolution (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    dispute_uri text collate "C" not null, result text not null, reasons text not null, created timestamptz not null,
    primary key (did, rkey)
);
create index on resolution (dispute_uri);

create table epoch_report (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    book text not null, epoch text not null, supersedes text collate "C",
    primary key (did, rkey)
);
create index on epoch_report (book, epoch);

create table cosignature (
    did text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    checkpoint_uri text collate "C" not null, origin text not null, size bigint not null, signature text not null, at timestamptz not null,
    primary key (did, rkey)
);
create index on cosignature (size);

-- The note that the record carries; rows from before have none until a rebuild.
alter table checkpoint add column note text;

-- What an entry is about, beside a task: the entry it ends or reverses; what is bound, paused or ended, and of which record.
alter table log_entry add column refers bigint;
alter table log_entry add column what text;
alter table log_entry add column subject text collate "C";
create index on log_entry (refers) where refers is not null;
create index on log_entry (kind, what, subject) where what is not null;

-- The newest checkpoint with a quorum of cosignatures, checked against our copy of the log and the policy that the log binds.
create table log_cosigned (
    one       bool primary key default true check (one),
    size      bigint not null,
    root      bytea not null,
    note      text not null,
    policy    text not null,
    witnesses text[] not null, -- keys of those that signed it
    members   bigint not null, -- how many the policy knows
    at        timestamptz not null
);
