package rules_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
)

// correct is a superseding verification that pays half, with the city's resolution.
func (s *shift) correct(of rules.Mint) rules.Correct {
	return rules.Correct{
		Now: s.Now, Record: s.Ref(rulestest.Library, "work.verification", "w"), Author: rulestest.Library, Signed: true, Supersedes: of.Record.Ref(),
		Resolution: new(s.Ref(rulestest.City, "gov.resolution", "r")), Token: s.token, Outcome: entry.OutcomePartial, Minutes: 60, Credits: 8,
	}
}

func TestCorrectionTakesTwoAuthorities(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	c := s.correct(m)
	s.Refused(rules.NotMinted, c)
	s.Must(m)
	alone := c
	alone.Resolution = nil
	assert.True(t, s.Refused(rules.AlreadyMinted, alone).Waiting())
	for _, author := range []string{"did:plc:parks", string(rulestest.City)} {
		other := c
		other.Author = rulestest.Parks
		if author != "did:plc:parks" {
			other.Author = rulestest.City
		}
		s.Refused(rules.NotAuthorized, other)
	}
	unsigned := c
	unsigned.Signed = false
	s.Refused(rules.BadSignature, unsigned)
	more := c
	more.Credits = 9
	s.Refused(rules.TermsFrozen, more)
	same := c
	same.Outcome, same.Credits = entry.OutcomeApproved, 16
	s.Refused(rules.NothingToCorrect, same)
	s.Must(c)
	credits, votes := s.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.EqualValues(t, 8, credits)
	assert.EqualValues(t, 8, votes)
	totals, _ := s.State.Totals(rulestest.Book, rulestest.Epoch)
	assert.EqualValues(t, 8, totals.Minted)
	s.Refused(rules.NothingToCorrect, c)
	require.Equal(t, s.State.Digest(), s.Replay().Digest())
}

// What the holder spent already stays; the entry says how much.
func TestCorrectionTakesNoMoreThanIsThere(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	m := s.verify()
	s.Must(m)
	s.Must(s.Burn(0, 3)) // 12 of 16
	c := s.correct(m)
	c.Outcome, c.Credits = entry.OutcomeRejected, 0
	s.Must(c)
	last := s.Entries[len(s.Entries)-1]
	assert.EqualValues(t, 4, last.Amount)
	assert.EqualValues(t, 12, last.Reverse.Short)
	credits, _ := s.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.Zero(t, credits)
	totals, _ := s.State.Totals(rulestest.Book, rulestest.Epoch)
	assert.Zero(t, totals.Supply())
	require.Equal(t, s.State.Digest(), s.Replay().Digest())
}

func TestUpheldDisputeIsVerifiedAnewByTheOrganizationThatTheCityNames(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	anew := s.verify()
	anew.Author, anew.Record = rulestest.Auditor, s.Ref(rulestest.Auditor, "work.verification", "x")
	s.Refused(rules.NotAuthorized, anew)
	anew.Upheld = new(s.Ref(rulestest.City, "gov.resolution", "r"))
	s.Refused(rules.NotAuthorized, anew) // nothing was rejected
	no := s.verify()
	no.Outcome, no.Credits = entry.OutcomeRejected, 0
	s.Must(no)
	stranger := anew
	stranger.Author = "did:plc:stranger"
	s.Refused(rules.NotAccredited, stranger)
	s.Must(anew)
	last := s.Entries[len(s.Entries)-1]
	assert.Equal(t, anew.Upheld.Ref(), *last.Mint.Resolution)
	assert.Contains(t, last.Causes, *anew.Upheld)
	assert.Equal(t, rulestest.Library, last.Org, "out of the issuer's allocation")
	credits, _ := s.State.Balance(rulestest.Account(0), rulestest.Book)
	assert.EqualValues(t, 16, credits)
	s.Refused(rules.AlreadyMinted, anew)
	require.Equal(t, s.State.Digest(), s.Replay().Digest())
}

func TestUpheldDisputeIsRefusedWhereTheAllocationIsFull(t *testing.T) {
	t.Parallel()
	s := newShift(t)
	no := s.verify()
	no.Outcome, no.Credits = entry.OutcomeRejected, 0
	s.Must(no)
	s.Now = s.Now.Add(-1)
	full := s.Task(rulestest.Library, "u", 1)
	totals, _ := s.State.Totals(rulestest.Book, rulestest.Epoch)
	var i rules.IssuerTotals
	for _, t := range totals.Issuers {
		if t.DID == rulestest.Library {
			i = t
		}
	}
	full.Shifts[0].Slots = (i.Allocation - i.Outstanding - i.Minted) / 16
	s.Must(full)
	s.Now = s.Now.Add(1)
	anew := s.verify()
	anew.Author, anew.Record = rulestest.Auditor, s.Ref(rulestest.Auditor, "work.verification", "x")
	anew.Upheld = new(s.Ref(rulestest.City, "gov.resolution", "r"))
	assert.False(t, s.Refused(rules.AllocationExceeded, anew).Alarm)
}
