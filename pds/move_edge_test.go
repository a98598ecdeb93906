package pds

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// An account that left is not told to be here, whoever asks; and a handle is answered for while its account is open.
func TestOperatorOpensNoAccountThatHasMovedAway(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	to := b.neighbour()
	u := b.account("user")
	there := u.arriveAt(to, "user2")
	there.ok(there.importCAR(u.car()))
	u.point(there)
	there.ok(there.activate())
	u.ok(u.post(u.Access, "com.atproto.server.deactivateAccount", m{}))
	assert.Equal(t, "HandleNotFound", b.get("", "com.atproto.identity.resolveHandle", "handle", u.Handle).name())
	events := b.count(`select count(*) from event`)
	a := b.bootstrap().send("com.atproto.admin.updateSubjectStatus", m{
		"subject": m{"$type": subjectRepo, "did": u.DID}, "deactivated": m{"applied": false},
	})
	assert.Equal(t, "IncompatibleDidDoc", a.name())
	assert.Equal(t, events, b.count(`select count(*) from event`))
}

// A repository without records has the tree of the one that was made here: its revision counts all the same.
func TestEmptyRepositoryThatMovesInGoesOnAboveItsRevision(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	to := b.neighbour()
	u := b.account("user")
	there := u.arriveAt(to, "user2")
	b.clock.Advance(time.Minute)
	u.ok(u.create(note, "a", m{"text": "x"}))
	u.ok(u.remove(note, "a", nil))
	_, left := u.head()
	there.ok(there.importCAR(u.car()))
	u.point(there)
	there.ok(there.activate())
	_, rev := there.head()
	assert.Greater(t, rev, left)
}
