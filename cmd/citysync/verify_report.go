package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// The checks, by the names that outside scripts know, in the order in which they are told.
const (
	checkLogKey        = "log key"
	checkSignature     = "checkpoint signature"
	checkLeaves        = "leaves"
	checkCheckpoints   = "published checkpoints"
	checkCanonical     = "canonical leaves"
	checkEpochs        = "epochs"
	checkLimits        = "limits"
	checkCited         = "cited records"
	checkAccreditation = "accreditation"
	checkTerms         = "terms"
	checkOneMint       = "one mint per claim, one claim per nullifier"
	checkVotes         = "votes"
	checkSupply        = "supply"
	checkReceipts      = "receipts"
	checkKeys          = "log keys"
	checkMonths        = "months and closings"
	checkRedeemed      = "holds and reversals"
	checkStops         = "pauses and rulings"
	checkDigests       = "digests and balances"
	checkCosigned      = "cosignatures"
	checkViews         = "other views"
	checkOpenings      = "openings"
	checkChain         = "chain of the record"
)

var verifyChecks = []string{
	checkLogKey, checkSignature, checkLeaves, checkCheckpoints, checkCanonical, checkEpochs, checkLimits, checkCited,
	checkAccreditation, checkTerms, checkOneMint, checkVotes, checkSupply, checkReceipts, checkKeys, checkMonths, checkRedeemed, checkStops,
	checkDigests, checkCosigned,
}

// A level is who could have made the same checks: what they had at hand.
type level string

const (
	levelAnyone    level = "anyone"
	levelResident  level = "resident"
	levelValidator level = "validator"
)

// unseen says what a level does not see.
var unseen = map[level]string{
	levelAnyone: `Checked as anyone can. Not visible from outside: whose claim it was, personal balances, claim limits, activation.
Validators re-check these with the openings that the ledger gives them under agreement; each resident can check their own.`,
	levelResident: `Checked as a resident: as anyone can, and what the openings given here show. Not visible: what is other people's.
Validators re-check that with the openings that the ledger gives them under agreement.`,
	levelValidator: `Checked as a validator: every entry was opened, and balances, limits of a person, dormancy and expiry were re-executed.`,
}

const (
	maxText   = 600   // bytes of what a stranger's text may take
	maxDetail = 40000 // of a chain
)

// maxWrong bounds what is told; the first are the ones that matter.
const maxWrong = 1000

// verifyReport is what a verification found. It is safe for concurrent use.
type verifyReport struct {
	mu     sync.Mutex
	checks map[string]*verifyCheck // guarded by mu
	wrong  []verifyWrong           // guarded by mu
	extra  []string                // guarded by mu: names of further checks
	level  level                   // guarded by mu
}

type verifyCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Count  int64  `json:"count"`
	Detail string `json:"detail"`

	bad int64
}

// verifyWrong is one thing that is wrong: with an entry, a record, or neither.
type verifyWrong struct {
	Entry *int64 `json:"entry"`
	URI   string `json:"uri"`
	What  string `json:"what"`

	check string
}

func (w verifyWrong) String() string {
	what := clean(w.What, maxText)
	switch {
	case w.Entry != nil && w.URI != "":
		return fmt.Sprintf("entry %d: %s: %s", *w.Entry, clean(w.URI, maxText), what)
	case w.Entry != nil:
		return fmt.Sprintf("entry %d: %s", *w.Entry, what)
	case w.URI != "":
		return fmt.Sprintf("%s: %s", clean(w.URI, maxText), what)
	}
	return what
}

// clean keeps text from strangers on one line and off the terminal's controls.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func newVerifyReport() *verifyReport {
	return &verifyReport{checks: map[string]*verifyCheck{}, level: levelAnyone}
}

// reached says that the checks were made as somebody who sees more than anyone.
func (r *verifyReport) reached(l level) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.level = l
}

// at gives a check's line. The caller holds mu.
func (r *verifyReport) at(check string) *verifyCheck {
	c := r.checks[check]
	if c == nil {
		c = &verifyCheck{Name: check}
		r.checks[check] = c
		if !slices.Contains(verifyChecks, check) {
			r.extra = append(r.extra, check)
		}
	}
	return c
}

// looked says that a check looked at so many items more, and what is worth telling about them.
func (r *verifyReport) looked(check string, n int, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.at(check)
	c.Count += int64(n)
	if detail != "" {
		c.Detail = detail
	}
}

// fail notes something wrong. The same thing is told once.
func (r *verifyReport) fail(check string, entry int64, uri, format string, args ...any) {
	w := verifyWrong{URI: uri, What: fmt.Sprintf(format, args...), check: check}
	if entry >= 0 {
		w.Entry = &entry
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.at(check)
	for _, o := range r.wrong {
		if o.String() == w.String() {
			return
		}
	}
	c.bad++
	if len(r.wrong) < maxWrong {
		r.wrong = append(r.wrong, w)
	}
}

// noEntry stands for the entry where what is wrong is none's.
const noEntry = int64(-1)

// failed tells whether a check found something wrong.
func (r *verifyReport) failed(check string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.checks[check]
	return c != nil && c.bad > 0
}

// result is the report's final form. A check that was not reached is not ok.
func (r *verifyReport) result() verifyResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := verifyResult{OK: true, Level: r.level, Wrong: []verifyWrong{}}
	for _, name := range slices.Concat(verifyChecks, r.extra) {
		c := r.checks[name]
		if c == nil {
			c = &verifyCheck{Name: name, Detail: "not reached"}
		} else {
			c.OK = c.bad == 0
			c.Detail = clean(c.Detail, maxDetail)
		}
		out.OK = out.OK && c.OK
		out.Checks = append(out.Checks, *c)
	}
	order := slices.Concat(verifyChecks, r.extra)
	wrong := slices.Clone(r.wrong)
	slices.SortStableFunc(wrong, func(a, b verifyWrong) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.check), slices.Index(order, b.check)), cmp.Compare(entryOr(a), entryOr(b)))
	})
	for _, w := range wrong {
		w.What, w.URI = clean(w.What, maxText), clean(w.URI, maxText)
		out.Wrong = append(out.Wrong, w)
	}
	return out
}

func entryOr(w verifyWrong) int64 {
	if w.Entry == nil {
		return noEntry
	}
	return *w.Entry
}

// verifyResult is what --json prints.
type verifyResult struct {
	OK     bool          `json:"ok"`
	Level  level         `json:"level"` // anyone, resident or validator
	Checks []verifyCheck `json:"checks"`
	Wrong  []verifyWrong `json:"wrong"`
}

func (r verifyResult) writeJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(r)
}

func (r verifyResult) writeText(w io.Writer) error {
	width := 0
	for _, c := range r.Checks {
		width = max(width, len(c.Name))
	}
	var b strings.Builder
	for _, c := range r.Checks {
		mark := "ok   "
		switch {
		case c.bad > 0:
			mark = "WRONG"
		case !c.OK:
			mark = "-    "
		}
		detail, links := c.Detail, []string(nil)
		if c.Name == checkChain && detail != "" {
			detail, links = "", strings.Split(detail, chainSeparator)
		}
		line := fmt.Sprintf("%s  %-*s %8d  %s", mark, width, c.Name, c.Count, detail)
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		for _, l := range links {
			b.WriteString("         " + l + "\n")
		}
	}
	if len(r.Wrong) > 0 {
		b.WriteString("\n")
	}
	for _, x := range r.Wrong {
		b.WriteString(x.String() + "\n")
	}
	b.WriteString("\n" + unseen[r.Level] + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}
