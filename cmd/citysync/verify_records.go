package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/audit"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// checkOf says which check a finding of the auditor belongs to.
func checkOf(kind entry.Kind, what string) string {
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(what, p) })
	}
	switch {
	case has("accredited", "may not verify", "may not activate", "no redeemer", "suspended or revoked", "an accreditation before"):
		return checkAccreditation
	case kind == entry.KindEpochOpen || kind == entry.KindParameters:
		return checkEpochs
	case has("is paused", "are paused", "objection holds", "may not rule", "a ruling pays", "last cause"):
		return checkStops
	case has("log key", "key of a witness", "key of the log", "runs a witness", "under rules version", "rules version"):
		return checkKeys
	case has("was closed"):
		return checkMonths
	case has("votes for"):
		return checkVotes
	case has("second mint", "second claim", "mint without a claim", "a rejection names"):
		return checkOneMint
	case has("more burned than minted"):
		return checkSupply
	case has("its terms give", "on other terms", "another rate", "outside the band", "mint for outcome"):
		return checkTerms
	}
	switch kind {
	case entry.KindDormant, entry.KindExpire, entry.KindEpochClose:
		return checkMonths
	case entry.KindHold, entry.KindCapture, entry.KindVoid, entry.KindReverse:
		return checkRedeemed
	case entry.KindPause, entry.KindResume:
		return checkStops
	case entry.KindStateDigest:
		return checkDigests
	}
	return checkLimits
}

// cited is what the entries cite, found once.
type citedRecords struct {
	mu    sync.Mutex
	found map[entry.Ref]verifiedRecord // guarded by mu
	bad   map[entry.Ref]error          // guarded by mu
}

// citedRecords looks up every record that an entry rests on, and holds the entries against what the records say.
func (v *verifier) citedRecords(ctx context.Context, log *verifiedLog) error {
	v.cited = &citedRecords{found: map[entry.Ref]verifiedRecord{}, bad: map[entry.Ref]error{}}
	byRef := map[entry.Ref][]entry.Cause{} // each with what entries say of its commit
	firstSeq := map[entry.Ref]int64{}
	names := map[syntax.DID]bool{}
	for _, e := range log.entries {
		if e == nil {
			continue
		}
		v.guarded(checkCited, e.Seq, func() {
			for _, c := range v.citedBy(e) {
				ref := c.Ref()
				if _, ok := firstSeq[ref]; !ok {
					firstSeq[ref] = e.Seq
				}
				if !slices.Contains(byRef[ref], c) {
					byRef[ref] = append(byRef[ref], c)
				}
				names[authorOfRef(ref)] = true
			}
		})
	}
	dids := slices.Sorted(maps.Keys(names))
	err := each(ctx, len(dids), func(ctx context.Context, i int) error {
		a, err := v.authors.get(ctx, dids[i])
		if err == nil {
			_, _ = v.authors.repository(ctx, a) // what is not there may be in the evidence
		}
		return onlyCouldNot(err)
	})
	if err != nil {
		return err
	}
	refs := slices.SortedFunc(maps.Keys(byRef), func(a, b entry.Ref) int { return strings.Compare(a.URI+a.CID, b.URI+b.CID) })
	if err := each(ctx, len(refs), func(ctx context.Context, i int) error { return v.findCited(ctx, refs[i]) }); err != nil {
		return err
	}
	fromEvidence := 0
	for _, r := range v.cited.found {
		if r.rev != "" {
			fromEvidence++
		}
	}
	v.report.looked(checkCited, len(refs), fmt.Sprintf("by %d authors; %d from the evidence that the ledger kept", len(dids), fromEvidence))
	for _, e := range log.entries {
		if e != nil {
			v.guarded(checkCited, e.Seq, func() { v.judge(ctx, e) })
		}
	}
	v.standing(ctx, log)
	return nil
}

// citedBy lists what an entry cites, well formed or not.
func (v *verifier) citedBy(e *entry.Entry) []entry.Cause {
	if headless(e) {
		v.report.fail(checkCited, e.Seq, "", "a rejection without its verification or shift")
		return nil
	}
	return audit.Cited(e)
}

// headless is a rejection that does not say by whom or of which shift; the auditor takes both for granted.
func headless(e *entry.Entry) bool {
	return e.Kind == entry.KindRelease && e.Release.Reason == entry.ReleaseRejected && (len(e.Causes) == 0 || len(e.Release.Shifts) == 0)
}

func onlyCouldNot(err error) error {
	if errors.Is(err, errCouldNot) {
		return err
	}
	return nil
}

func authorOfRef(r entry.Ref) syntax.DID {
	rest, _ := strings.CutPrefix(r.URI, "at://")
	did, _, _ := strings.Cut(rest, "/")
	return syntax.DID(did)
}

func (v *verifier) findCited(ctx context.Context, ref entry.Ref) error {
	u, err := recordAddress(ref.URI)
	var r verifiedRecord
	if err == nil {
		r, err = v.authors.version(ctx, v.city.url, u, ref.CID)
	}
	if err == nil && lexicons.Known(u.Collection().String()) {
		err = lexicons.Validate(u.Collection().String(), u.RecordKey().String(), r.data)
	}
	if errors.Is(err, errCouldNot) {
		return err
	}
	v.cited.mu.Lock()
	defer v.cited.mu.Unlock()
	if err != nil {
		v.cited.bad[ref] = err
		return nil
	}
	v.cited.found[ref] = r
	return nil
}

// judge holds one entry against the records it cites.
func (v *verifier) judge(ctx context.Context, e *entry.Entry) {
	absent := map[string]bool{} // told here once
	for _, c := range v.citedBy(e) {
		if err := v.cited.bad[c.Ref()]; err != nil {
			absent[c.URI] = true
			if e.Kind != entry.KindBind || e.Bind.Status != "revoked" || !errors.Is(err, errNoEvidence) {
				v.report.fail(checkCited, e.Seq, c.URI, "%v", err)
			}
			continue
		}
		if what := v.signedBy(ctx, c); what != "" {
			v.report.fail(checkCited, e.Seq, c.URI, "%s", what)
		}
	}
	check := checkTerms
	switch {
	case headless(e):
		return // told by citedBy
	case e.Kind == entry.KindEpochOpen, e.Kind == entry.KindParameters:
		check = checkEpochs
	case e.Kind == entry.KindBind:
		check = checkAccreditation
	case e.Kind == entry.KindPause, e.Kind == entry.KindResume, e.Kind == entry.KindReverse:
		check = checkStops
	}
	for _, f := range audit.CheckCauses(e, v.city.did, v.fetch) {
		if !absent[f.URI] {
			v.report.fail(check, f.Entry, f.URI, "%s", f.What)
		}
	}
}

// fetch gives a record that was found.
func (v *verifier) fetch(c entry.Cause) (audit.Record, error) {
	r, ok := v.cited.found[c.Ref()]
	if !ok {
		return nil, audit.ErrNoRecord
	}
	return lexicons.DecodeCBOR(r.data)
}

// signedBy checks what an entry says of the commit of a record that it cites: made by the author's key of that time.
func (v *verifier) signedBy(ctx context.Context, c entry.Cause) string {
	if c.Rev == "" && c.Key == "" {
		return ""
	}
	a, err := v.authors.get(ctx, authorOfRef(c.Ref()))
	if err != nil {
		return err.Error()
	}
	if _, err := syntax.ParseTID(c.Rev); err != nil {
		return fmt.Sprintf("its rev %q is none", c.Rev)
	}
	if full, err := v.authors.repository(ctx, a); err == nil && c.Rev > full.Rev {
		return fmt.Sprintf("its rev %s is later than its author's repository, which is at %s", c.Rev, full.Rev)
	}
	if r := v.cited.found[c.Ref()]; r.rev != "" && r.rev != c.Rev {
		return fmt.Sprintf("the entry says it came with rev %s, the evidence is of %s", c.Rev, r.rev)
	}
	keys := a.keysAt(c.Rev)
	if len(keys) == 0 {
		return fmt.Sprintf("its author had no key at %s", c.Rev)
	}
	if c.Key == "" {
		return ""
	}
	for _, k := range keys {
		if k.DIDKey() == c.Key {
			return ""
		}
	}
	return fmt.Sprintf("signed by %s, its author's key at %s was %s", c.Key, c.Rev, keys[0].DIDKey())
}

// standing looks for accreditations that the log ended although the city's record stands.
func (v *verifier) standing(ctx context.Context, log *verifiedLog) {
	last := map[syntax.DID]*entry.Entry{}
	for _, e := range log.entries {
		if e != nil && e.Kind == entry.KindBind && e.Bind.What == entry.BindRole {
			last[e.Org] = e
		}
	}
	city, err := v.authors.get(ctx, v.city.did)
	if err != nil {
		return
	}
	behind := 0
	for _, org := range slices.Sorted(maps.Keys(last)) {
		e := last[org]
		r, ok := city.current(lexicons.RegistryAccreditation + "/" + lexicons.AccreditationKey(org.String()))
		if !ok {
			continue
		}
		if r.CID.String() != e.Causes[0].CID {
			behind++ // the log has yet to read it
			continue
		}
		decoded, err := lexicons.DecodeCBOR(r.Data)
		if status, _ := decoded["status"].(string); err == nil && e.Bind.Status == "revoked" && status != "revoked" {
			v.report.fail(checkAccreditation, e.Seq, e.Causes[0].URI, "revoked in the log, %s in the city's repository", status)
		}
	}
	detail := fmt.Sprintf("%d organizations", len(last))
	if behind > 0 {
		detail += fmt.Sprintf("; %d newer records of the city are not in the log yet", behind)
	}
	v.report.looked(checkAccreditation, 0, detail)
}
