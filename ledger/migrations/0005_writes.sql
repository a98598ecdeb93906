-- What every entry writes. A foreign key to entry cost a query and a lock on the entry's row for each opening and each line of an
-- account, which was a third of a mint. The rows are written by one batch from one list, entries are never deleted, and a start refuses
-- an opening outside the log.
alter table opening drop constraint opening_seq_fkey;
alter table account_entry drop constraint account_entry_seq_fkey;
