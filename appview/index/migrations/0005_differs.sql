-- The ledger's records of its own log: copies for the network, which are held against the log once our copy of it is long enough.
create table log_pending (
    did text collate "C" not null, coll text collate "C" not null, rkey text collate "C" not null,
    needs bigint not null, -- entries of the log
    primary key (did, coll, rkey)
);
create index on log_pending (needs);
insert into log_pending select did, 'org.city-sync.ledger.receipt', rkey, seq + 1 from receipt;
insert into log_pending select did, 'org.city-sync.ledger.checkpoint', rkey, size from checkpoint;

-- Those that are not what the log says, in the version that was compared.
create table log_differs (
    did text collate "C" not null, coll text collate "C" not null, rkey text collate "C" not null, cid text collate "C" not null,
    seq  bigint, -- of the entry that a receipt is about
    what text not null,
    at   timestamptz not null,
    primary key (did, coll, rkey)
);
create index on log_differs (seq);
