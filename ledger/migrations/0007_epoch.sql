-- What an epoch came to, fixed when it has closed: a crash before it is published repeats the same words.
create table epoch_report (
  seq    bigint primary key references entry (seq) deferrable initially deferred, -- of the closing
  opened bigint not null references entry (seq) deferrable initially deferred,
  book   text   collate "C" not null,
  epoch  text   collate "C" not null,
  record text   not null,
  uri    text   collate "C",
  cid    text   collate "C",
  unique (book, epoch)
);
