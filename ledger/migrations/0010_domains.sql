-- A CHECK of a table is kept as text, which each statement that writes to the table reads anew: fifteen of them cost a small batch more than
-- the rows. What a column alone must be is said by its type instead, which a session reads once. A CHECK that looks at two columns stays one.
create domain whole_number as bigint check (value >= 0);
create domain leaf_bytes   as bytea check (octet_length(value) between 1 and 61440);
create domain hash_bytes   as bytea check (octet_length(value) = 32);
create domain node_bytes   as bytea check (octet_length(value) > 0 and octet_length(value) % 32 = 0);
create domain sealed_bytes as bytea check (octet_length(value) <= 16384);

alter table entry
  drop constraint entry_seq_check, drop constraint entry_leaf_check, drop constraint entry_hash_check,
  alter column seq type whole_number, alter column leaf type leaf_bytes, alter column hash type hash_bytes;
alter table node
  drop constraint node_idx_check, drop constraint node_hash_check,
  alter column idx type whole_number, alter column hash type node_bytes;
alter table node alter column hash set storage external; -- a new type brings its own
alter table opening
  drop constraint opening_sealed_check, alter column sealed type sealed_bytes;
alter table balance
  drop constraint balance_credits_check, drop constraint balance_votes_check, drop constraint balance_aside_check,
  alter column credits type whole_number, alter column votes type whole_number, alter column aside type whole_number;
alter table cap_guard
  drop constraint cap_guard_cap_check, alter column cap type whole_number;
alter table allocation_guard
  drop constraint allocation_guard_allocation_check, alter column allocation type whole_number;
alter table head
  drop constraint head_size_check, alter column size type whole_number;

-- What it set for itself it set and put back with each call. The writer's connection has it once and for all.
alter function write_batch reset all;
