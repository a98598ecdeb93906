-- The tree grows by two hashes an entry: a row has all that a batch added, from idx on. Rows of one hash, as they were written before, are
-- read the same way.
alter table node drop constraint node_hash_check;
alter table node add constraint node_hash_check check (octet_length(hash) > 0 and octet_length(hash) % 32 = 0);
alter table node alter column hash set storage external; -- hashes do not compress
