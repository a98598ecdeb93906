package rules

import (
	"slices"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
)

// Correct takes back what a mint paid too much. It takes two authorities: the verifier of the mint or its issuer, whose superseding
// verification pays less, and the city, whose resolution orders it. It takes what the holder still has, and no more.
type Correct struct {
	Now        time.Time
	Record     entry.Cause // the superseding verification
	Author     syntax.DID
	Signed     bool
	Supersedes entry.Ref    // the verification that minted
	Resolution *entry.Cause // the city's, that orders a correction of either verification; nil: there is none yet
	Token      []byte
	Outcome    string
	Minutes    int64
	Credits    int64
}

func (c Correct) decide(s *State) ([]entry.Entry, error) {
	cl := s.claims[string(c.Token)]
	switch {
	case !c.Signed:
		return nil, refuse(BadSignature, figures{"author": string(c.Author)})
	case cl == nil || cl.status != minted:
		return nil, refuse(NotMinted, nil)
	case c.Resolution == nil:
		return nil, &Refusal{Name: AlreadyMinted, Figures: figures{"resolution": "none orders a correction"}, WaitFor: []string{"resolution"}}
	}
	t := cl.task
	if c.Author != t.org && c.Author != authority(c.Supersedes.URI) {
		return nil, refuse(NotAuthorized, figures{"author": string(c.Author), "issuer": string(t.org)})
	}
	if a := s.accredited(c.Author); a == nil || !a.good() {
		return nil, refuse(NotAccredited, figures{"org": string(c.Author), "status": statusOf(a)})
	}
	pay, err := c.pay(t.version(cl.terms))
	if err != nil {
		return nil, err
	}
	less := cl.paid - pay
	if less <= 0 {
		return nil, refuse(NothingToCorrect, figures{"paid": cl.paid, "credits": pay})
	}
	var has int64
	if cl.account != erased {
		has = s.accounts[cl.account].free(t.epoch.book)
	}
	amount := min(less, has)
	d := s.draft(c.Now)
	d.add(entry.Entry{
		Kind: entry.KindReverse, Epoch: t.epoch.epoch, Book: t.epoch.book, Org: t.org, Nullifier: slices.Clone(c.Token),
		Amount: amount, Votes: amount * t.epoch.params.VotesPerCredit, Causes: []entry.Cause{c.Record, *c.Resolution},
		Reverse: &entry.Reverse{Of: cl.mint, What: entry.KindMint, Reason: entry.ReverseCorrected, Short: less - amount},
	})
	return d.out, nil
}

// pay is what the superseding verification pays, which must be what it says.
func (c Correct) pay(v *version) (pay int64, err error) {
	switch c.Outcome {
	case entry.OutcomeRejected:
		return 0, nil
	case entry.OutcomePartial:
		pay = PartialPay(v.TierRate, c.Minutes, v.Credits)
	case entry.OutcomeApproved:
		pay = v.Credits
	default:
		return 0, refuse(InvalidRecord, figures{"outcome": c.Outcome})
	}
	if c.Credits != pay || pay == 0 {
		return 0, refuse(TermsFrozen, figures{"credits": c.Credits, "frozen": pay})
	}
	return pay, nil
}

func (s *State) applyCorrection(e *entry.Entry) error {
	c, r := s.claims[string(e.Nullifier)], e.Reverse
	if c == nil || c.status != minted || c.mint != r.Of || len(e.Causes) < 2 {
		return broken("correction of entry %d, which is no mint of this claim, or by one authority alone", r.Of)
	}
	t, ep := c.task, c.task.epoch
	acc := s.accounts[c.account]
	switch {
	case t.org != e.Org || ep.bookEpoch != (bookEpoch{e.Book, e.Epoch}):
		return broken("correction of another issuer or epoch than the mint's")
	case e.Amount+r.Short > c.paid || e.Amount+r.Short <= 0:
		return broken("correction of %d and %d of a mint of %d", e.Amount, r.Short, c.paid)
	case e.Amount > acc.free(e.Book):
		return broken("correction of %d from a balance of %d", e.Amount, acc.free(e.Book))
	case e.Votes != e.Amount*ep.params.VotesPerCredit:
		return broken("%d votes for %d credits", e.Votes, e.Amount)
	}
	c.paid -= e.Amount + r.Short
	ep.count(t.org, func(n *sums) { n.minted -= e.Amount; n.votes -= e.Votes })
	if e.Amount > 0 {
		s.unearn(acc.in(e.Book), e.Book, e.Amount, e.Votes)
	}
	return nil
}

// unearn takes back what a mint gave. It is no act of the holder's: what slept sleeps on. Of a holding that sleeps, what is taken counts
// as woken and as not issued, so that the stock of dormant credits falls by it.
func (s *State) unearn(h *holding, name string, amount, votes int64) {
	if h.asleep > 0 {
		h.woken += amount
	}
	h.credits -= amount
	h.votes -= votes
	s.book(name).issued(-amount)
}

// Minted gives what the claim under a token was paid, and the mint's seq; false where it was not minted.
func (s *State) Minted(token []byte) (seq, paid int64, ok bool) {
	c := s.claims[string(token)]
	if c == nil || c.status != minted {
		return 0, 0, false
	}
	return c.mint, c.paid, true
}

// Rejected says whether the claim under a token was rejected.
func (s *State) Rejected(token []byte) bool {
	c := s.claims[string(token)]
	return c != nil && c.status == rejected
}
