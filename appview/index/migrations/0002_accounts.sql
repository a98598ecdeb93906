-- What an account's standing does to what was seen of it, and which revision an entry of the log cites.

-- The commit behind the state: another one under the same rev is an equivocation. Unknown for repositories saved before this column.
alter table repo add column commit_cid text collate "C";

-- Null: the account was deleted. Who, where and which version stay, for those who cited it.
alter table record_version alter column cbor drop not null;

alter table log_cause add column rev text collate "C" not null default '';
