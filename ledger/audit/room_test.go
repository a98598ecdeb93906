package audit_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// A rejection gives its room back. A mint that overturns it when others have taken that room is over the allocation.
func TestMintOverTheRoomIsNamed(t *testing.T) {
	t.Parallel()
	w := rulestest.NewTown(t)
	task := w.Accept(w.Task(rulestest.Library, "t", 2))
	token := w.Claim(0, task)
	w.Now = task.Shifts[0].StartsAt
	reject := w.Verify(task, token)
	reject.Outcome = entry.OutcomeRejected
	w.Must(reject)
	mint, err := rules.Decide(w.State, w.Verify(task, token)) // while there is room
	require.NoError(t, err)
	w.Must(w.Task(rulestest.Library, "big", 36)) // 16 + 576 of 600
	require.Empty(t, replay(w.Leaves).Findings())

	late := mint[0]
	late.Seq = w.State.Size()
	_, err = late.Seal(rand.NewChaCha8([32]byte{3}))
	require.NoError(t, err)
	leaf, err := late.Encode()
	require.NoError(t, err)
	found := replay(append(w.Leaves, leaf)).Findings()
	require.Len(t, found, 1)
	assert.Equal(t, "allocation exceeded: 608 > 600", found[0].What)
	assert.Equal(t, late.Seq, found[0].Entry)
	require.ErrorIs(t, rules.Apply(w.State, late), rules.ErrBroken)
}

func TestOverlappingEpochsAreNamed(t *testing.T) {
	t.Parallel()
	w := rulestest.New(t)
	p := w.Parameters(entry.PhaseLaunch)
	second := p.Epochs[0]
	second.Key = "e2027-1b"
	p.Epochs = append(p.Epochs, second)
	w.SetParameters(p)
	w.Must(rules.OpenEpoch{Now: w.Now, Epoch: rulestest.Epoch, Book: rulestest.Book})
	w.Refused(rules.EpochAlreadyOpen, rules.OpenEpoch{Now: w.Now, Epoch: second.Key, Book: rulestest.Book})

	forged := w.Entries[len(w.Entries)-1]
	forged.Seq, forged.Epoch = w.State.Size(), second.Key
	leaf, err := forged.Encode()
	require.NoError(t, err)
	found := replay(append(w.Leaves, leaf)).Findings()
	require.Len(t, found, 1)
	assert.Contains(t, found[0].What, "overlaps e2027-01")
	require.ErrorIs(t, rules.Apply(w.State, forged), rules.ErrBroken)
}
