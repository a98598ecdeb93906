package ledger

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"city-sync.org/citysync/internal/crash"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/tlog"
)

// digested is the last stateDigest, as checkpoints name it.
type digested struct {
	seq  int64
	at   time.Time
	day  string
	line string
}

// noteDigest keeps what the next checkpoints say of a digest. The first entry of the log stands in for one, so that the first is due
// when a day has passed.
func (s *sequencer) noteDigest(e *entry.Entry) error {
	if e.Kind != entry.KindStateDigest && e.Seq != 0 {
		return nil
	}
	at, err := entry.ParseTime(e.At)
	if err != nil {
		return broken("time of entry %d: %w", e.Seq, err)
	}
	s.digest = digested{seq: e.Seq, at: at, day: e.Day}
	if e.Kind != entry.KindStateDigest {
		return nil
	}
	hash, err := entry.BalancesHash(e.StateDigest.Balances)
	if err != nil {
		return broken("balances of entry %d: %w", e.Seq, err)
	}
	s.digest.line = tlog.BalancesLine(e.Seq, hash)
	return nil
}

// extensions are the further lines of a checkpoint.
func (d digested) extensions() []string {
	if d.line == "" {
		return nil
	}
	return []string{d.line}
}

// digestDue says whether the log grew since the last digest, and a local midnight or the configured time has passed.
func (t *turn) digestDue() bool {
	last := t.b.seq.digest
	if t.b.state.Size() <= last.seq+1 {
		return false
	}
	if t.cfg.DigestEvery > 0 {
		return !t.b.now.Before(last.at.Add(t.cfg.DigestEvery))
	}
	return entry.FormatDay(t.b.now, t.b.state.Location()) > last.day
}

// digestState fixes once a day what the log comes to.
func (t *turn) digestState(ctx context.Context) (int, error) {
	if !t.digestDue() {
		return 0, nil
	}
	seed := make([]byte, 32)
	if _, err := rand.Read(seed); err != nil {
		return 0, fmt.Errorf("seed: %w", err)
	}
	if _, err := t.decide(ctx, rules.Digest{Now: t.b.now, Seed: seed}); err != nil {
		return 0, fmt.Errorf("state digest: %w", ours(err))
	}
	crash.Point("ledger/digest/made")
	return 0, nil
}

// keepSeeds is how many of the last digests keep their seed. The newest serves proofs; the others let a validator that fell behind
// re-execute the roots.
const keepSeeds = 8

// forgetSeeds destroys the seeds of old digests: a path under their roots could be joined to a person by whoever has one.
func (t *turn) forgetSeeds(ctx context.Context) (int, error) {
	const old = `update opening set sealed = null where sealed is not null and seq in (
		select seq from entry where kind = 'stateDigest' order by seq desc offset $1 limit $2)`
	if t.b.seq.forgot == t.b.seq.digest.seq {
		return 0, nil // looked at since the last digest
	}
	tag, err := t.b.tx.Exec(ctx, old, keepSeeds, sweepRows)
	if err != nil {
		return 0, fmt.Errorf("forget seeds: %w", err)
	}
	t.b.seq.forgot = t.b.seq.digest.seq
	return int(tag.RowsAffected()), nil
}

// closeEpochs closes the epochs whose months are all closed. Where a quorum of witnesses is asked for, they have cosigned the last month
// before it counts.
func (t *turn) closeEpochs(ctx context.Context) (int, error) {
	for _, cmd := range t.b.state.EpochsToClose(t.b.now) {
		if size, bound := t.finality(); bound && size <= t.b.state.ClosedAt(cmd.Book) {
			continue
		}
		if _, err := t.decide(ctx, cmd); err != nil {
			return 0, fmt.Errorf("close epoch %s of %s: %w", cmd.Epoch, cmd.Book, ours(err))
		}
	}
	return 0, nil
}

func (in *intake) finality() (size int64, bound bool) {
	if in.cosigned == nil {
		return 0, false
	}
	return in.cosigned()
}
