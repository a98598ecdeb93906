package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"city-sync.org/citysync/ledger"
	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
)

// openings are what is sealed of entries, by seq. One without bytes was destroyed.
type openings map[int64][]byte

// given is what a file of openings has: whole ones, single fields of some, and proofs of balances.
type given struct {
	whole  openings
	fields map[int64][]*entry.FieldOpening
	proofs []ledger.BalanceProofView
}

const (
	maxOpeningsFile = 4 << 30
	maxOpeningText  = 64 << 10
)

// readOpenings reads a file of openings: one JSON object {"seq": n, "opening": base64 or null} after another, or answers of the
// ledger to getOpening, listOpenings and getBalanceProof.
func readOpenings(name string) (*given, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxOpeningsFile {
		return nil, fmt.Errorf("%s has %d bytes, at most %d", name, info.Size(), int64(maxOpeningsFile))
	}
	out := &given{whole: openings{}, fields: map[int64][]*entry.FieldOpening{}}
	if err := out.decode(bufio.NewReader(f)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// openingText is one opening as files and answers have it, or an answer with a list of them, or a proof of a balance.
type openingText struct {
	Seq      *int64           `json:"seq"`
	Opening  json.RawMessage  `json:"opening"`
	Sealed   json.RawMessage  `json:"sealed"`
	Fields   []fieldText      `json:"fields"`
	Shares   *json.RawMessage `json:"shares"`
	Openings []openingText    `json:"openings"`
}

// fieldText is one field as getOpening gives it.
type fieldText struct {
	Name  string            `json:"name"`
	Text  *string           `json:"text"`
	Bytes json.RawMessage   `json:"bytes"`
	Salt  json.RawMessage   `json:"salt"`
	Index int64             `json:"index"`
	Path  []json.RawMessage `json:"path"`
}

func (g *given) decode(r io.Reader) error {
	dec := json.NewDecoder(r)
	for {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var o openingText
		if err == nil {
			err = json.Unmarshal(raw, &o)
		}
		if err != nil {
			return err
		}
		if o.Shares != nil {
			var p ledger.BalanceProofView
			if err := json.Unmarshal(raw, &p); err != nil {
				return err
			}
			g.proofs = append(g.proofs, p)
			continue
		}
		if err := g.take(o, true); err != nil {
			return err
		}
	}
}

func (g *given) take(o openingText, lists bool) error {
	if o.Seq == nil {
		if !lists || o.Openings == nil {
			return errors.New("an opening without its seq")
		}
		for _, one := range o.Openings {
			if err := g.take(one, false); err != nil {
				return err
			}
		}
		return nil
	}
	seq := *o.Seq
	_, whole := g.whole[seq]
	_, parts := g.fields[seq]
	if whole || parts || seq < 0 {
		return fmt.Errorf("opening of entry %d is there twice, or of none", seq)
	}
	for _, f := range o.Fields {
		field, err := f.opening()
		if err != nil {
			return fmt.Errorf("opening of entry %d: %w", seq, err)
		}
		g.fields[seq] = append(g.fields[seq], field)
	}
	if o.Fields != nil {
		return nil
	}
	raw := o.Opening
	if len(raw) == 0 {
		raw = o.Sealed
	}
	bytes, err := bytesIn(raw)
	if err != nil {
		return fmt.Errorf("opening of entry %d: %w", seq, err)
	}
	g.whole[seq] = bytes
	return nil
}

func (f *fieldText) opening() (*entry.FieldOpening, error) {
	salt, err := bytesIn(f.Salt)
	if err != nil {
		return nil, err
	}
	out := &entry.FieldOpening{Field: entry.Field{Name: f.Name, Salt: salt}, Index: f.Index}
	if f.Text != nil {
		out.Field.Value = *f.Text
	} else if out.Field.Value, err = bytesIn(f.Bytes); err != nil {
		return nil, err
	}
	for _, raw := range f.Path {
		step, err := bytesIn(raw)
		if err != nil {
			return nil, err
		}
		out.Path = append(out.Path, step)
	}
	return out, nil
}

// bytesIn reads base64, as a text or as the network writes bytes; nothing or null is none.
func bytesIn(raw json.RawMessage) ([]byte, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	if len(raw) > maxOpeningText {
		return nil, fmt.Errorf("%d bytes, at most %d", len(raw), maxOpeningText)
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		var o struct {
			Bytes string `json:"$bytes"`
		}
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, err
		}
		text = o.Bytes
	}
	if b, err := base64.StdEncoding.DecodeString(text); err == nil {
		return b, nil
	}
	return base64.RawStdEncoding.DecodeString(text)
}

// add gives the auditor the next leaf, with its opening where all are at hand.
func (v *verifier) add(a *audit.Auditor, seq int64, leaf []byte) {
	if v.all == nil {
		_ = a.Add(seq, leaf) // kept as a finding
		return
	}
	opening, known := v.all.whole[seq]
	_ = a.AddSealed(seq, leaf, opening, known && opening == nil) // kept as a finding
}

// opened tells what was checked with openings, and so as whom.
func (v *verifier) opened(log *verifiedLog) {
	switch {
	case v.all != nil:
		v.report.reached(levelValidator)
		n, erased, _ := v.audit.Sealed()
		roots, skipped := v.audit.BalanceRoots()
		detail := fmt.Sprintf("%d erased; %d roots of balances recomputed", erased, roots)
		if skipped > 0 {
			detail += fmt.Sprintf(", %d cannot be, because somebody was forgotten", skipped)
		}
		v.report.looked(checkOpenings, int(n), detail)
		for _, f := range v.audit.CheckPersons(v.fetch) {
			v.report.fail(checkOpenings, f.Entry, f.URI, "%s", f.What)
		}
	case v.own != nil:
		v.report.reached(levelResident)
		v.ownEntries(log)
	}
}
