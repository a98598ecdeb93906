package entry

import (
	"errors"
	"fmt"
)

const (
	maxText   = 512
	maxAmount = 1_000_000_000_000 // far above any city's cap, far below overflow of a sum or product
	maxCauses = 16
)

// shape says which common fields a kind has.
type shape struct {
	at, epoch, org, causes, params, cap, nullifier, amount, sealed bool
}

var shapes = map[Kind]shape{
	KindRulesVersion: {at: true},
	KindParameters:   {at: true, causes: true, params: true},
	KindActivate:     {org: true, sealed: true},
	KindEpochOpen:    {at: true, epoch: true, params: true},
	KindReserve:      {at: true, epoch: true, org: true, causes: true, params: true, cap: true},
	KindRelease:      {epoch: true, org: true},
	KindClaim:        {epoch: true, org: true, nullifier: true, sealed: true},
	KindUnclaim:      {epoch: true, org: true, nullifier: true},
	KindMint:         {epoch: true, org: true, causes: true, params: true, cap: true, nullifier: true, amount: true, sealed: true},
	KindBurn:         {epoch: true, org: true, causes: true, params: true, amount: true, sealed: true},
	KindHold:         {epoch: true, org: true, causes: true, params: true, amount: true, sealed: true},
	KindCapture:      {epoch: true, org: true, causes: true, params: true, amount: true, sealed: true},
	KindVoid:         {epoch: true, org: true, amount: true},
	KindReverse:      {epoch: true, org: true},
	KindDormant:      {epoch: true, params: true},
	KindExpire:       {epoch: true, amount: true},
	KindEpochClose:   {at: true, epoch: true, params: true},
	KindPause:        {at: true, causes: true},
	KindResume:       {at: true, causes: true},
	KindStateDigest:  {at: true, sealed: true},
}

func (e *Entry) shape() (shape, bool) {
	if e.Kind != KindBind {
		s, ok := shapes[e.Kind]
		return s, ok
	}
	switch {
	case e.Bind == nil:
		return shape{}, false
	case e.Bind.What == BindRole:
		return shape{at: true, org: true, causes: true}, true
	case e.Bind.What == BindTill:
		return shape{at: true, org: true}, true
	case e.Bind.What == BindStaff:
		return shape{sealed: true}, true
	case e.Bind.What == BindWitness:
		return shape{at: true, org: true}, true
	case e.Bind.What == BindPolicy, e.Bind.What == BindLogKey:
		return shape{at: true}, true
	}
	return shape{}, false
}

// check holds what an entry must look like whatever the state of the log.
func (e *Entry) check() error {
	s, ok := e.shape()
	if !ok {
		return fmt.Errorf("kind %q is unknown", e.Kind)
	}
	if e.Seq < 0 {
		return fmt.Errorf("seq %d", e.Seq)
	}
	if err := checkDay(e.Day); err != nil {
		return err
	}
	if e.At != "" {
		if _, err := ParseTime(e.At); err != nil {
			return err
		}
	}
	// A release has a time where it concerns the organization alone, and none where a claim ended.
	at := s.at || (e.Kind == KindRelease && e.At != "")
	// A rejection names its claim and its verification; other releases and reversals name the records that caused them, if any.
	causes := s.causes || ((e.Kind == KindRelease || e.Kind == KindReverse) && len(e.Causes) > 0)
	// So does the reversal of a mint, whose claim it is about.
	nullifier := s.nullifier || (e.Kind == KindRelease && len(e.Nullifier) > 0) || (e.Kind == KindReverse && e.Reverse != nil && e.Reverse.What == KindMint)
	// A pause may be of one organization, or of all.
	org := s.org || ((e.Kind == KindPause || e.Kind == KindResume) && e.Org != "")
	for _, f := range []struct {
		name      string
		has, want bool
	}{
		{"at", e.At != "", at},
		{"epoch", e.Epoch != "", s.epoch},
		{"book", e.Book != "", s.epoch},
		{"org", e.Org != "", org},
		{"causes", len(e.Causes) > 0, causes},
		{"params", e.Params != nil, s.params},
		{"cap", e.Cap != nil, s.cap},
		{"nullifier", len(e.Nullifier) > 0, nullifier},
		{"commitment", e.Commitment != nil, s.sealed},
	} {
		if f.has != f.want {
			if f.want {
				return fmt.Errorf("%s without %s", e.Kind, f.name)
			}
			return fmt.Errorf("%s with %s", e.Kind, f.name)
		}
	}
	if err := e.checkAmounts(s); err != nil {
		return err
	}
	if err := e.checkCommon(); err != nil {
		return err
	}
	return e.checkBody()
}

func (e *Entry) checkAmounts(s shape) error {
	mayHave := s.amount || e.Kind == KindReserve || e.Kind == KindRelease || e.Kind == KindUnclaim || e.Kind == KindDormant ||
		e.Kind == KindReverse
	switch {
	case e.Amount < 0 || e.Amount > maxAmount || e.Votes < 0 || e.Votes > maxAmount:
		return fmt.Errorf("amount %d, votes %d out of range", e.Amount, e.Votes)
	case s.amount && e.Amount == 0:
		return fmt.Errorf("%s without amount", e.Kind)
	case !mayHave && e.Amount != 0:
		return fmt.Errorf("%s with amount", e.Kind)
	case e.Votes != 0 && e.Kind != KindMint && e.Kind != KindReverse:
		return fmt.Errorf("%s with votes", e.Kind)
	case e.Cap != nil && (e.Cap.Cap < 0 || e.Cap.Before < 0 || e.Cap.Cap > maxAmount || e.Cap.Before > maxAmount):
		return errors.New("cap state out of range")
	}
	return nil
}

func (e *Entry) checkCommon() error {
	if len(e.Nullifier) != 0 && len(e.Nullifier) != 32 {
		return fmt.Errorf("nullifier of %d bytes", len(e.Nullifier))
	}
	if c := e.Commitment; c != nil && (len(c.Value) != 32 || (c.Padded != 8 && c.Padded != 16 && c.Padded != 32)) {
		return errors.New("commitment of another form")
	}
	if len(e.Causes) > maxCauses {
		return fmt.Errorf("%d causes", len(e.Causes))
	}
	for _, c := range e.Causes {
		if err := c.Ref().check(); err != nil {
			return err
		}
		if len(c.Rev) > 32 || len(c.Key) > 256 {
			return errors.New("cause with a long rev or key")
		}
	}
	if e.Params != nil {
		if err := e.Params.check(); err != nil {
			return err
		}
	}
	return short(e.Epoch, e.Book, string(e.Org))
}

func (r Ref) check() error {
	if r.URI == "" || r.CID == "" || len(r.URI) > maxText || len(r.CID) > 128 {
		return fmt.Errorf("reference %q %q", r.URI, r.CID)
	}
	return nil
}

func short(texts ...string) error {
	for _, s := range texts {
		if len(s) > maxText {
			return fmt.Errorf("text of %d bytes", len(s))
		}
	}
	return nil
}

func inRange(numbers ...int64) error {
	for _, n := range numbers {
		if n < 0 || n > maxAmount {
			return fmt.Errorf("number %d out of range", n)
		}
	}
	return nil
}
