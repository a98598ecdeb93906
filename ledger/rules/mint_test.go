package rules_test

import (
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// shift is a claim in its running shift, ready to be verified.
type shift struct {
	*rulestest.Town
	task  rules.AcceptTask
	token []byte
}

func newShift(t *testing.T, change ...func(*rules.AcceptTask)) *shift {
	t.Helper()
	w := rulestest.NewTown(t)
	task := w.Task(rulestest.Library, "t", 5)
	for _, f := range change {
		f(&task)
	}
	w.Must(task)
	s := &shift{Town: w, task: task, token: w.Claim(0, task)}
	w.Now = task.Shifts[0].StartsAt
	return s
}

func (s *shift) verify() rules.Mint { return s.Verify(s.task, s.token) }

func level(n int64) func(*rules.AcceptTask) { return func(c *rules.AcceptTask) { c.Entry.Level = n } }

func TestMintPaysTheFrozenCredits(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	s.Must(m)
	credits, votes := s.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.EqualValues(t, 16, credits)
	assert.EqualValues(t, 16, votes)
	e := s.Entries[len(s.Entries)-1]
	assert.Equal(t, s.token, e.Nullifier)
	assert.Equal(t, []entry.Cause{m.Record}, e.Causes)
	assert.Equal(t, &entry.CapState{Cap: 1200, Before: 0}, e.Cap)
	assert.EqualValues(t, 4*16, outstanding(s.Town, s.task))
}

func TestMintCondition1SignedAndAuthorized(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	m.Signed = false
	s.Refused(rules.BadSignature, m)
	m = s.verify()
	m.Author = rulestest.Parks
	s.Refused(rules.NotAuthorized, m)
	m.Author = rulestest.Auditor
	s.Refused(rules.NotAuthorized, m)
	r := s.Role(rulestest.Library, rules.RoleIssuer)
	r.Delegates = []syntax.DID{rulestest.Auditor}
	s.Must(r)
	s.Must(m)
}

func TestMintCondition2Accredited(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*rules.BindRole){
		"suspended now": func(r *rules.BindRole) { r.Status = rules.StatusSuspended },
		"revoked now":   func(r *rules.BindRole) { r.Status = rules.StatusRevoked },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShift(t)
			r := s.Role(rulestest.Library, rules.RoleIssuer)
			change(&r)
			s.Must(r)
			s.Refused(rules.NotAccredited, s.verify())
		})
	}
	t.Run("not on the work date", func(t *testing.T) {
		t.Parallel()
		w := rulestest.NewTown(t)
		task := w.Task(rulestest.Library, "t", 5)
		task.Shifts[0].StartsAt, task.Shifts[0].EndsAt = w.At("2027-01-10 10:00"), w.At("2027-01-10 12:00")
		w.Must(task)
		token := w.Claim(0, task)
		r := w.Role(rulestest.Library, rules.RoleIssuer)
		r.Now, r.ValidUntil = w.At("2027-01-06 09:00"), w.At("2027-01-10 00:00")
		w.Must(r)
		w.Now = w.At("2027-01-10 13:00")
		refusal := w.Refused(rules.NotAccredited, w.Verify(task, token))
		assert.Equal(t, "2027-01-10", refusal.Figures["day"])
	})
	t.Run("an ended term is no revocation", func(t *testing.T) {
		t.Parallel()
		s := newShift(t)
		r := s.Role(rulestest.Library, rules.RoleIssuer)
		r.ValidUntil = s.At("2027-01-05 00:00")
		s.Must(r)
		s.Now = s.At("2027-01-20 09:00")
		s.Must(s.verify())
	})
	t.Run("a delegate that is not accredited", func(t *testing.T) {
		t.Parallel()
		s := newShift(t)
		r := s.Role(rulestest.Library, rules.RoleIssuer)
		r.Delegates = []syntax.DID{"did:plc:friend"}
		s.Must(r)
		m := s.verify()
		m.Author = "did:plc:friend"
		s.Refused(rules.NotAccredited, m)
	})
}

func TestMintCondition2DelegateAccreditedOnTheWorkDate(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	s.Now = s.At("2027-01-08 09:00")
	const late = syntax.DID("did:plc:late")
	verifier := s.Role(late, rules.RoleVerifier)
	verifier.ValidFrom = s.At("2027-01-07 00:00")
	s.Must(verifier)
	r := s.Role(rulestest.Library, rules.RoleIssuer)
	r.Delegates = []syntax.DID{late}
	s.Must(r)
	m := s.verify()
	m.Author = late
	s.Refused(rules.NotAccredited, m)
}

func TestMintCondition3TaskAccepted(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	m.Task.CID = "bafyother"
	r := s.Refused(rules.TaskNotAccepted, m)
	assert.Equal(t, []string{m.Task.URI}, r.WaitFor)
}

func TestMintCondition4ClaimStands(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	m.Token = make([]byte, 32)
	r := s.Refused(rules.ClaimMissing, m)
	assert.True(t, r.Waiting())
	m = s.verify()
	m.ByClaim = true
	s.Refused(rules.ClaimMissing, m)

	open := newShift(t, func(c *rules.AcceptTask) { c.Entry.Sensitivity = entry.SensitivityPublic })
	m = open.verify()
	m.ByClaim = true
	open.Must(m)
}

func TestMintCondition5NotMintedBefore(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	s.Must(s.verify())
	s.Refused(rules.AlreadyMinted, s.verify())
	m := s.verify()
	m.Outcome, m.Credits = entry.OutcomeRejected, 0
	s.Refused(rules.AlreadyMinted, m)
}

func TestMintCondition6TermsFrozen(t *testing.T) {
	t.Parallel()
	s := newShift(t, func(c *rules.AcceptTask) {
		c.Shifts = append(c.Shifts, rules.Shift{ID: "b", StartsAt: c.Shifts[0].StartsAt, EndsAt: c.Shifts[0].EndsAt, Slots: 1})
	})
	for _, credits := range []int64{15, 17, 0} {
		m := s.verify()
		m.Credits = credits
		s.Refused(rules.TermsFrozen, m)
	}
	m := s.verify()
	m.Shift = "b"
	s.Refused(rules.TermsFrozen, m)

	edited := s.Version(s.task)
	edited.Credits, edited.Entry.MinMinutes, edited.Entry.MaxMinutes = 8, 60, 60
	s.Must(edited)
	m = s.verify()
	m.Task, m.Credits = edited.Task.Ref(), 8
	s.Refused(rules.TermsFrozen, m)
	s.Must(s.verify())
}

func TestPartialPaysItsMinutesAndNeverMoreThanFrozen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ minutes, pays int64 }{{1, 0}, {7, 0}, {8, 1}, {59, 7}, {60, 8}, {119, 15}, {120, 16}, {600, 16}} {
		assert.Equal(t, c.pays, rules.PartialPay(8, c.minutes, 16), "%d minutes", c.minutes)
	}
	s := newShift(t)
	m := s.verify()
	m.Outcome, m.Minutes, m.Credits = entry.OutcomePartial, 59, 8
	s.Refused(rules.TermsFrozen, m)
	m.Credits = 7
	s.Must(m)
	assert.EqualValues(t, 4*16, outstanding(s.Town, s.task), "what partial work does not earn is released")

	s = newShift(t)
	m = s.verify()
	m.Outcome, m.Minutes, m.Credits = entry.OutcomePartial, 7, 0
	s.Refused(rules.TermsFrozen, m)
}

func TestMintCondition7VerifierIsNotClaimant(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	// Bound after the claim was let in.
	s.Must(rules.BindStaff{Now: s.Now, Org: rulestest.Library, Resident: rulestest.Resident(0)})
	s.Refused(rules.SelfVerification, s.verify())

	s = newShift(t)
	r := s.Role(rulestest.Library, rules.RoleIssuer)
	r.Delegates = []syntax.DID{rulestest.Resident(0)}
	s.Must(r)
	s.Refused(rules.SelfVerification, s.verify())
}

func TestMintCondition8ShiftHasBegun(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	m.Now = s.task.Shifts[0].StartsAt.Add(-1)
	s.Refused(rules.TooEarly, m)
	m.Now = s.task.Shifts[0].StartsAt
	s.Must(m)
}

func TestMintCondition9MethodsOfTheLevel(t *testing.T) {
	t.Parallel()
	const ns = "org.city-sync.defs#"
	for _, c := range []struct {
		name    string
		level   int64
		methods []string
		cosign  []syntax.DID
		ok      bool
	}{
		{"L1 by attestation", 1, []string{ns + "methodAttestation"}, nil, true},
		{"L1 by check-in", 1, []string{ns + "methodCheckIn"}, nil, true},
		{"L1 by nothing", 1, nil, nil, false},
		{"L1 by a word of one's own", 1, []string{"trust"}, nil, false},
		{"L2 by review", 2, []string{ns + "methodEvidenceReview"}, nil, true},
		{"L2 by attestation", 2, []string{ns + "methodAttestation"}, nil, false},
		{"L3 by two methods", 3, []string{ns + "methodAttestation", ns + "methodEvidenceReview"}, nil, true},
		{"L3 by one method twice", 3, []string{ns + "methodAttestation", ns + "methodAttestation"}, nil, false},
		{"L3 by one method and one word", 3, []string{ns + "methodAttestation", "trust"}, nil, false},
		{"L3 with a co-signer", 3, []string{ns + "methodAttestation"}, []syntax.DID{rulestest.Parks}, true},
		{"L3 co-signed by its own author", 3, []string{ns + "methodAttestation"}, []syntax.DID{rulestest.Library}, false},
		{"L4 by two methods alone", 4, []string{ns + "methodAttestation", ns + "methodEvidenceReview"}, nil, false},
		{"L4 with a co-signer", 4, []string{ns + "methodAttestation"}, []syntax.DID{rulestest.Parks}, true},
		{"L4 with the issuer as its own co-signer", 4, []string{ns + "methodAttestation"}, []syntax.DID{rulestest.Library}, false},
		{"L4 with a stranger", 4, []string{ns + "methodAttestation"}, []syntax.DID{"did:plc:stranger"}, false},
		{"L4 with a redeemer", 4, []string{ns + "methodAttestation"}, []syntax.DID{rulestest.Bus}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newShift(t, level(c.level))
			m := s.verify()
			m.Methods = c.methods
			for _, org := range c.cosign {
				m.CoSigners = append(m.CoSigners, s.cosign(org))
			}
			if !c.ok {
				s.Refused(rules.MethodsMissing, m)
				return
			}
			s.Must(m)
		})
	}
	s := newShift(t, level(2))
	m := s.verify()
	m.Methods, m.Level = []string{rules.MethodEvidenceReview}, 1
	s.Refused(rules.MethodsMissing, m)
}

func (s *shift) cosign(org syntax.DID) rules.CoSigner {
	return rules.CoSigner{
		Org: org, Record: s.Ref(org, "work.verification", "co"), Signed: true, Supported: true,
		Task: s.task.Task.Ref(), Shift: "a", Token: s.token, Outcome: entry.OutcomeApproved,
	}
}

func TestCoSignerCountsByItsOwnVerificationOfTheSameSubject(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*rules.CoSigner){
		"unsigned":        func(c *rules.CoSigner) { c.Signed = false },
		"not named":       func(c *rules.CoSigner) { c.Supported = false },
		"another claim":   func(c *rules.CoSigner) { c.Token = make([]byte, 32) },
		"another task":    func(c *rules.CoSigner) { c.Task.CID = "bafyother" },
		"another shift":   func(c *rules.CoSigner) { c.Shift = "b" },
		"it rejected the": func(c *rules.CoSigner) { c.Outcome = entry.OutcomeRejected },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShift(t, level(4))
			co := s.cosign(rulestest.Parks)
			change(&co)
			m := s.verify()
			m.CoSigners = []rules.CoSigner{co}
			s.Refused(rules.MethodsMissing, m)
		})
	}
	s := newShift(t, level(4))
	m := s.verify()
	m.CoSigners = []rules.CoSigner{s.cosign(rulestest.Parks), s.cosign(rulestest.Auditor), s.cosign(rulestest.Parks)}
	s.Must(m)
	e := s.Entries[len(s.Entries)-1]
	assert.Equal(t, []syntax.DID{rulestest.Auditor, rulestest.Parks}, e.Mint.CoSigners)
	assert.Len(t, e.Causes, 3)
}

func TestMintCondition10NotHeld(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	hold := s.holdTask()
	s.Must(hold)
	s.Refused(rules.HeldByDispute, m)
	m.Outcome = entry.OutcomeRejected
	s.Refused(rules.HeldByDispute, m)
	m.Outcome = entry.OutcomeApproved
	size := len(s.Entries)
	s.Must(hold)
	assert.Len(t, s.Entries, size, "held already")
	s.Must(rules.Resume{Now: s.Now, What: entry.PauseTask, Subject: hold.Subject, Reason: "dismissed", Record: s.Ref(rulestest.City, "gov.resolution", "r")})
	s.Must(m)
}

// A rejection releases the reservation. If others take the room before it is overturned, the mint is refused.
func TestMintCondition11Room(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	reject := s.verify()
	reject.Outcome, reject.Credits = entry.OutcomeRejected, 0
	s.Must(reject)
	s.Refused(rules.AlreadyRejected, reject)
	assert.EqualValues(t, 64, outstanding(s.Town, s.task))
	taken := s.Task(rulestest.Library, "big", 33) // 64 + 528 = 592
	taken.Shifts[0].EndsAt = taken.Shifts[0].StartsAt.AddDate(0, 0, 1)
	s.Must(taken)
	r := s.Refused(rules.AllocationExceeded, s.verify())
	assert.False(t, r.Alarm, "nothing was reserved for it any more")
	s.Must(rules.ReleaseSlots{Now: s.Now, First: taken.First, Reason: entry.ReleaseCancelled, Author: rulestest.Library})
	s.Must(s.verify()) // an overturned rejection pays out of the same allocation
	credits, _ := s.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.EqualValues(t, 16, credits)
}

func TestRejectedNeverPays(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	m.Outcome = entry.OutcomeRejected // whatever credits it states
	s.Must(m)
	credits, votes := s.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.Zero(t, credits+votes)
	e := s.Entries[len(s.Entries)-1]
	assert.Equal(t, entry.KindRelease, e.Kind)
	assert.Equal(t, s.token, e.Nullifier)
	_, err := s.TryClaim(s.ClaimOf(0, s.task))
	assert.Equal(t, rules.AlreadyClaimed, rules.Refused(err))
}

func TestUnknownOutcomeMintsNothing(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	m.Outcome = "splendid"
	s.Refused(rules.InvalidRecord, m)
}

func TestApplyRefusesForgedMints(t *testing.T) {
	t.Parallel()
	for name, forge := range map[string]func(*entry.Entry){
		"more credits":        func(e *entry.Entry) { e.Amount++; e.Votes++ },
		"votes of one's own":  func(e *entry.Entry) { e.Votes *= 2 },
		"another account":     func(e *entry.Entry) { e.Sealed.Account = rulestest.Account(1) },
		"no claim":            func(e *entry.Entry) { e.Nullifier = make([]byte, 32) },
		"another issuer":      func(e *entry.Entry) { e.Org = rulestest.Parks },
		"another cap":         func(e *entry.Entry) { e.Cap.Before++ },
		"without its opening": func(e *entry.Entry) { e.Sealed = nil },
		"a later number":      func(e *entry.Entry) { e.Seq++ },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShift(t)
			s.Must(rules.EnterClaims{Now: s.Now, First: s.task.First, Shift: "a"})
			entries, err := rules.Decide(s.State, s.verify())
			require.NoError(t, err)
			forge(&entries[0])
			require.ErrorIs(t, rules.Apply(s.State, entries[0]), rules.ErrBroken)
		})
	}
}
