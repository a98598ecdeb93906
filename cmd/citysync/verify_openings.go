package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
)

// openings are what is sealed of entries, by seq. One without bytes was destroyed.
type openings map[int64][]byte

const (
	maxOpeningsFile = 4 << 30
	maxOpeningText  = 64 << 10
)

// readOpenings reads a file of openings: one JSON object {"seq": n, "opening": base64 or null} after another, or answers of the
// ledger, which have lists of them.
func readOpenings(name string) (openings, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxOpeningsFile {
		return nil, fmt.Errorf("%s has %d bytes, at most %d", name, info.Size(), int64(maxOpeningsFile))
	}
	out := openings{}
	if err := decodeOpenings(bufio.NewReader(f), out); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out, nil
}

// openingText is one opening as files and answers have it.
type openingText struct {
	Seq      *int64          `json:"seq"`
	Opening  json.RawMessage `json:"opening"`
	Sealed   json.RawMessage `json:"sealed"`
	Openings []openingText   `json:"openings"`
}

func decodeOpenings(r io.Reader, out openings) error {
	dec := json.NewDecoder(r)
	for {
		var o openingText
		err := dec.Decode(&o)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := out.take(o, true); err != nil {
			return err
		}
	}
}

func (out openings) take(o openingText, lists bool) error {
	if o.Seq == nil {
		if !lists || o.Openings == nil {
			return errors.New("an opening without its seq")
		}
		for _, one := range o.Openings {
			if err := out.take(one, false); err != nil {
				return err
			}
		}
		return nil
	}
	raw := o.Opening
	if len(raw) == 0 {
		raw = o.Sealed
	}
	bytes, err := bytesIn(raw)
	if err != nil {
		return fmt.Errorf("opening of entry %d: %w", *o.Seq, err)
	}
	if _, twice := out[*o.Seq]; twice || *o.Seq < 0 {
		return fmt.Errorf("opening of entry %d is there twice, or of none", *o.Seq)
	}
	out[*o.Seq] = bytes
	return nil
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
	opening, known := v.all[seq]
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
	case v.own != nil:
		v.report.reached(levelResident)
		v.ownEntries(log)
	}
}

// ownEntries opens what a resident was given: each is sealed in the log as it says, and all are of one account.
func (v *verifier) ownEntries(log *verifiedLog) {
	var mine entry.Account
	credits := map[string]int64{}
	n := 0
	for _, seq := range slices.Sorted(maps.Keys(v.own)) {
		if seq >= log.checkpoint.Size || log.entries[seq] == nil {
			v.report.fail(checkOpenings, seq, "", "an opening of an entry that cannot be had")
			continue
		}
		e := *log.entries[seq]
		o, err := entry.DecodeOpening(v.own[seq])
		if err == nil {
			err = e.Unseal(o)
		}
		if err != nil {
			v.report.fail(checkOpenings, seq, "", "%v", err)
			continue
		}
		n++
		switch {
		case e.Sealed.Account == entry.Account{}:
		case mine == entry.Account{}:
			mine = e.Sealed.Account
		case mine != e.Sealed.Account:
			v.report.fail(checkOpenings, seq, "", "it is of another account than the entries before it")
		}
		switch e.Kind {
		case entry.KindMint:
			credits[e.Book] += e.Amount
		case entry.KindBurn, entry.KindCapture:
			credits[e.Book] -= e.Amount
		}
	}
	detail := "entries of one account"
	for _, book := range slices.Sorted(maps.Keys(credits)) {
		detail = join(detail, fmt.Sprintf("%s: %d earned less redeemed", book, credits[book]))
	}
	v.report.looked(checkOpenings, n, detail)
}
