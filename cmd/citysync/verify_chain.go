package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bluesky-social/indigo/atproto/syntax"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// maxChain bounds the records behind one record.
const maxChain = 200

// chainSeparator stands between the links in the check's detail.
const chainSeparator = "; "

// recordChain is what stands behind one record: what it cites, what that cites, and the entries of the log that rest on them.
type recordChain struct {
	v         *verifier
	log       *verifiedLog
	published *published

	links   []string
	seen    map[entry.Ref]bool
	entries map[int64]bool
}

// chain follows one record down to the city's founding and up to its receipt. What is missing is wrong.
func (v *verifier) chain(ctx context.Context, u syntax.ATURI, p *published, log *verifiedLog) error {
	c := &recordChain{v: v, log: log, published: p, seen: map[entry.Ref]bool{}, entries: map[int64]bool{}}
	err := c.root(ctx, u)
	v.report.looked(checkChain, len(c.links), strings.Join(c.links, chainSeparator))
	return err
}

func (c *recordChain) missing(uri, format string, args ...any) {
	c.v.report.fail(checkChain, noEntry, uri, format, args...)
}

// root begins at the version that stands now, or, where it is gone, at the last one that the log cites.
func (c *recordChain) root(ctx context.Context, u syntax.ATURI) error {
	did, err := u.Authority().AsDID()
	if err != nil {
		return couldNot("%w", err)
	}
	a, err := c.v.authors.get(ctx, did)
	if errors.Is(err, errCouldNot) {
		return err
	}
	if err != nil {
		c.missing(u.String(), "%v", err)
		return nil
	}
	_, repoErr := c.v.authors.repository(ctx, a)
	if r, ok := a.current(u.Collection().String() + "/" + u.RecordKey().String()); repoErr == nil && ok {
		return c.follow(ctx, u, r.CID.String())
	}
	for i := len(c.log.entries) - 1; i >= 0; i-- {
		if e := c.log.entries[i]; e != nil {
			for _, cause := range c.v.citedBy(e) {
				if cause.URI == u.String() {
					return c.follow(ctx, u, cause.CID)
				}
			}
		}
	}
	if errors.Is(repoErr, errCouldNot) {
		return repoErr
	}
	c.missing(u.String(), "there is no such record")
	return nil
}

// follow adds one version of a record, the entries of the log that rest on it, and what it cites.
func (c *recordChain) follow(ctx context.Context, u syntax.ATURI, id string) error {
	ref := entry.Ref{URI: u.String(), CID: id}
	if c.seen[ref] || len(c.links) >= maxChain {
		return nil
	}
	c.seen[ref] = true
	r, err := c.v.authors.version(ctx, c.v.city.url, u, id)
	if errors.Is(err, errCouldNot) {
		return err
	}
	if err == nil && lexicons.Known(u.Collection().String()) {
		err = lexicons.Validate(u.Collection().String(), u.RecordKey().String(), r.data)
	}
	if err != nil {
		c.missing(u.String(), "version %s: %v", id, err)
		return nil
	}
	name := u.Collection().String()
	c.links = append(c.links, fmt.Sprintf("%s %s", name[strings.LastIndexByte(name[:strings.LastIndexByte(name, '.')], '.')+1:], u))
	if err := c.counted(ctx, u, ref); err != nil {
		return err
	}
	for _, cites := range refsIn(r.data) {
		if cites.cid == "" || cites.field == "previous" { // the checkpoints' own check follows those
			continue
		}
		if err := c.follow(ctx, cites.uri, cites.cid); err != nil {
			return err
		}
	}
	return nil
}

// counted adds the entries that rest on a record, where a record of its kind counts by an entry alone.
func (c *recordChain) counted(ctx context.Context, u syntax.ATURI, ref entry.Ref) error {
	var rests func(*entry.Entry) bool
	byCause := func(kinds ...entry.Kind) func(*entry.Entry) bool {
		return func(e *entry.Entry) bool {
			return slices.Contains(kinds, e.Kind) &&
				slices.ContainsFunc(e.Causes, func(x entry.Cause) bool { return x.Ref() == ref })
		}
	}
	switch u.Collection().String() {
	case lexicons.WorkTask:
		rests = byCause(entry.KindReserve)
	case lexicons.WorkVerification:
		rests = byCause(entry.KindMint, entry.KindRelease)
	case lexicons.RegistryAccreditation:
		rests = byCause(entry.KindBind)
	case lexicons.GovParameterSet:
		rests = byCause(entry.KindParameters)
	case lexicons.OfferOffering:
		for _, e := range c.log.entries {
			if e != nil && e.Kind == entry.KindEpochOpen && slices.ContainsFunc(e.EpochOpen.Offerings, func(o entry.CountedOffering) bool {
				return o.URI == ref.URI && o.CID == ref.CID
			}) {
				c.note(e)
			}
		}
		return nil // one that was published later counts from the next epoch
	case lexicons.LedgerReceipt:
		rests = func(e *entry.Entry) bool { return ref.URI == c.v.receiptURI(e.Seq) }
	default:
		return nil
	}
	found := false
	for _, e := range c.log.entries {
		if e != nil && rests(e) {
			found = true
			if err := c.entry(ctx, e); err != nil {
				return err
			}
		}
	}
	if !found {
		c.missing(u.String(), "no entry of the log rests on it: it does not count")
	}
	return nil
}

// entry adds an entry and what belongs to it.
func (c *recordChain) entry(ctx context.Context, e *entry.Entry) error {
	if c.entries[e.Seq] || len(c.links) >= maxChain {
		return nil
	}
	c.entries[e.Seq] = true
	c.links = append(c.links, fmt.Sprintf("entry %d (%s)", e.Seq, e.Kind))
	for _, cause := range c.v.citedBy(e) {
		u, err := recordAddress(cause.URI)
		if err != nil {
			c.missing(cause.URI, "%v", err)
			continue
		}
		if err := c.follow(ctx, u, cause.CID); err != nil {
			return err
		}
	}
	switch e.Kind {
	case entry.KindMint:
		if err := c.behindMint(ctx, e); err != nil {
			return err
		}
	case entry.KindBurn:
		return c.receipt(ctx, e)
	case entry.KindReserve:
		return c.behindReserve(ctx, e)
	}
	return nil
}

// behindMint adds the claim that was paid, who was accredited, and the receipt.
func (c *recordChain) behindMint(ctx context.Context, e *entry.Entry) error {
	var claim *entry.Entry
	for _, o := range c.log.entries[:e.Seq] {
		if o != nil && o.Kind == entry.KindClaim && string(o.Nullifier) == string(e.Nullifier) {
			claim = o
		}
	}
	if claim == nil {
		c.missing(e.Causes[0].URI, "entry %d mints for a claim that the log does not have", e.Seq)
	} else if err := c.entry(ctx, claim); err != nil {
		return err
	}
	if err := c.accreditation(ctx, e.Mint.Verifier, e); err != nil {
		return err
	}
	return c.receipt(ctx, e)
}

func (c *recordChain) behindReserve(ctx context.Context, e *entry.Entry) error {
	for _, o := range c.log.entries[:e.Seq] {
		if o != nil && o.Kind == entry.KindEpochOpen && o.Book == e.Book && o.Epoch == e.Epoch {
			c.note(o)
		}
	}
	return c.accreditation(ctx, e.Org, e)
}

// note adds an entry without what is behind it: an epoch cites every offering of the city.
func (c *recordChain) note(e *entry.Entry) {
	if !c.entries[e.Seq] {
		c.entries[e.Seq] = true
		c.links = append(c.links, fmt.Sprintf("entry %d (%s)", e.Seq, e.Kind))
	}
}

// accreditation adds the last one of an organization before an entry.
func (c *recordChain) accreditation(ctx context.Context, org syntax.DID, before *entry.Entry) error {
	for i := before.Seq - 1; i >= 0; i-- {
		if o := c.log.entries[i]; o != nil && o.Kind == entry.KindBind && o.Bind.What == entry.BindRole && o.Org == org {
			return c.entry(ctx, o)
		}
	}
	c.missing(before.Causes[0].URI, "entry %d: the log has no accreditation of %s before it", before.Seq, org)
	return nil
}

// receipt adds the receipt of a mint or burn, which may still be missing where no checkpoint was published since.
func (c *recordChain) receipt(ctx context.Context, e *entry.Entry) error {
	r, ok := c.published.receipts[e.Seq]
	if !ok {
		if slices.Contains(missingReceipts(c.published, c.log), e.Seq) {
			c.missing(c.v.receiptURI(e.Seq), "the receipt of entry %d is missing", e.Seq)
		}
		return nil
	}
	return c.follow(ctx, syntax.ATURI(r.uri), r.cid)
}
