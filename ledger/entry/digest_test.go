package entry_test

import (
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/assert"

	"city-sync.org/citysync/ledger/entry"
)

// The text of the facts is a promise too: other programs compute it from the leaves.
func TestDigestIsOfTheCanonicalText(t *testing.T) {
	t.Parallel()
	facts := func(order bool) *entry.Facts {
		f := &entry.Facts{Entries: 40, Rules: 2}
		add := []func(){
			func() { f.Book("standard", 100, 5, 16, 4, 2) },
			func() {
				f.Epoch("standard", "e1", entry.EpochSums{Cap: 1200, Reserved: 96, Outstanding: 32, Minted: 64, Votes: 64, Burned: 12, Tasks: 3, Claims: 5, Mints: 4, Closed: true})
			},
			func() { f.Issuer("standard", "e1", "did:plc:a", 600, 96, 32, 64, 5) },
			func() { f.Task("at://did:plc:a/x/1", 32) },
			func() { f.Task("at://did:plc:a/x/2", 0) },
			func() { f.Units("standard", "e1", "at://did:plc:b/y/1", 1, 3) },
			func() { f.Hold(31, 8) },
			func() { f.Pause(entry.PauseTask, "at://did:plc:a/x/1", "", "") },
		}
		for i := range add {
			if order {
				i = len(add) - 1 - i
			}
			add[i]()
		}
		return f
	}
	want := `"org.city-sync.digest.v1" 40 2
book "standard" 100 5 16 4 2
epoch "standard" "e1" 1200 96 32 64 64 12 0 3 5 4 1
hold 31 8
issuer "standard" "e1" "did:plc:a" 600 96 32 64 5
pause "task" "at://did:plc:a/x/1" "" ""
task "at://did:plc:a/x/1" 32
units "standard" "e1" "at://did:plc:b/y/1" 1 3
`
	assert.Equal(t, want, facts(false).Text())
	assert.Equal(t, want, facts(true).Text())
	sum := facts(true).Digest()
	assert.Equal(t, "f0a8253d898a7bb4b58d9bd3cdbd4cc33669904f8e8dba24ca1cefdb5d891f3b", hex.EncodeToString(sum[:]))
}
