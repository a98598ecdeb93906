package ledger

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/signer"
	"city-sync.org/citysync/ledger/tlog"
)

// A checkpoint may be signed while its batch commits. Where the COMMIT fails nobody has seen it, and a signer that remembers was not asked.
func TestCheckpointIsSeenOnlyWhenItsBatchIsCommitted(t *testing.T) { // L3, L5
	t.Parallel()
	for name, remembers := range map[string]bool{"by a signer that forgets": false, "by a signer that remembers": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCity(t)
			if remembers {
				c.stop()
				guarded, err := signer.Open(filepath.Join(t.TempDir(), "last.json"), c.cfg.DID.String(), c.logKey)
				require.NoError(t, err)
				c.signer, c.logKey = guarded, ""
				c.start()
			}
			activate := func() error {
				_, err := c.l.seq.must(c.ctx, "activate", func(_ context.Context, b *batch) (any, error) {
					n := b.state.Size()
					return b.decide(rules.Activate{
						Now: b.now, Issuer: c.library.did, Resident: syntax.DID(fmt.Sprint("did:plc:person", n)), Account: entry.Account{9, byte(n)},
					})
				})
				return err
			}
			require.NoError(t, activate())
			before, note := c.l.seq.latest.Load(), c.get("/checkpoint").Body.String()

			_, err := c.world.pool.Exec(c.ctx, `create constraint trigger late after update on head deferrable initially deferred
				for each row execute function refuse_change()`)
			require.NoError(t, err)
			var signed []int64 // of what sizes
			_, err = c.l.seq.must(c.ctx, "watch the signer", func(_ context.Context, b *batch) (any, error) {
				sign := b.seq.sign
				b.seq.sign = func(size int64, root tlog.Hash, more []string) (*Checkpoint, error) {
					signed = append(signed, size)
					return sign(size, root, more)
				}
				_, err := b.decide(rules.Activate{
					Now: b.now, Issuer: c.library.did, Resident: "did:plc:lost", Account: entry.Account{8},
				})
				return nil, err
			})
			require.ErrorIs(t, err, errStopped)
			<-c.l.seq.ended
			require.Same(t, before, c.l.seq.latest.Load())
			require.Equal(t, note, c.get("/checkpoint").Body.String())
			if remembers {
				require.Empty(t, signed)
			} else {
				require.Equal(t, []int64{before.Size + 1}, signed, "what is thrown away here")
			}

			c.fenced = true
			c.stop()
			c.fenced = false
			_, err = c.world.pool.Exec(c.ctx, `drop trigger late on head`)
			require.NoError(t, err)
			c.start()
			require.Equal(t, before.Size, c.l.seq.latest.Load().Size)
			require.NoError(t, activate(), "another batch of the same size is signed")
			require.Equal(t, before.Size+1, c.l.seq.latest.Load().Size)
		})
	}
}
