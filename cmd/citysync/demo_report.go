package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"city-sync.org/citysync/lexicons"
)

// report is what demo prints, as a table or as its one JSON object.
type report struct {
	City           string           `json:"city"`
	CapacityMonth  int64            `json:"capacityMonth"`
	CapEpoch       int64            `json:"capEpoch"`
	CapUnallocated int64            `json:"capUnallocated"`
	Tasks          int64            `json:"tasks"`
	Reserved       int64            `json:"reserved"`
	Claims         int64            `json:"claims"`
	Verifications  int64            `json:"verifications"`
	Minted         int64            `json:"minted"`
	Votes          int64            `json:"votes"`
	Burned         int64            `json:"burned"`
	Reviews        int64            `json:"reviews"`
	Refused        map[string]int   `json:"refused"`
	Issuers        []reportIssuer   `json:"issuers"`
	Checkpoint     reportCheckpoint `json:"checkpoint"`
	Evidence       []string         `json:"evidence"`
	Shown          []shown          `json:"shown"`

	tries  []try
	unfit  []*row
	ledger string
	web    string
}

type reportIssuer struct {
	ID         string `json:"id"`
	Allocation int64  `json:"allocation"`
	Reserved   int64  `json:"reserved"`
	Minted     int64  `json:"minted"`
}

type reportCheckpoint struct {
	Size int64  `json:"size"`
	Root string `json:"root"`
}

// publishTime bounds how long the ledger may take to publish a receipt as a record.
const publishTime = 60 * time.Second

// report reads the figures from the ledger; nothing in it was counted on the way,
// except the reviews, which are no business of the ledger's.
func (d *demo) report(ctx context.Context) (*report, error) {
	evidence, err := d.evidence(ctx)
	if err != nil {
		return nil, err
	}
	c, err := d.ledger.capacity(ctx)
	if err != nil {
		return nil, err
	}
	out := &report{
		City: c.City.String(), CapacityMonth: c.CapacityMonth, CapEpoch: c.CapEpoch, CapUnallocated: c.CapUnallocated,
		Tasks: c.Tasks, Reserved: c.Reserved, Claims: c.Claims, Verifications: c.Verifications, Minted: c.Minted, Votes: c.Votes,
		Burned: c.Burned, Refused: map[string]int{}, Checkpoint: reportCheckpoint{c.Checkpoint.Size, c.Checkpoint.Root},
		Evidence: evidence, Shown: d.shows, tries: d.tries, ledger: d.ready.Ledger, web: d.ready.Web,
	}
	for _, t := range d.tries {
		if t.Got == t.Want {
			out.Refused[t.Got]++
		}
	}
	for _, a := range d.ready.Accounts {
		for _, i := range c.Issuers {
			if i.DID.String() == a.DID {
				out.Issuers = append(out.Issuers, reportIssuer{a.ID, i.Allocation, i.Reserved, i.Minted})
			}
		}
	}
	for _, r := range d.rows {
		if r.refused != nil {
			out.unfit = append(out.unfit, r)
		}
	}
	for _, r := range d.residents {
		reviews, err := d.pds.list(ctx, r.DID, lexicons.WorkReview)
		if err != nil {
			return nil, err
		}
		out.Reviews += int64(len(reviews))
	}
	return out, nil
}

// evidence begins with one whole chain, from the catalog entry to the receipt, and
// goes on to a burn: the addresses that a doubter opens.
func (d *demo) evidence(ctx context.Context) ([]string, error) {
	out, err := d.mintChain(ctx)
	if err != nil {
		return nil, err
	}
	burns, err := d.receipts(ctx, "burn")
	if err != nil {
		return nil, err
	}
	if len(burns) > 0 {
		b := burns[len(burns)-1] // the first of the epoch, so that every run names the same
		offering := b.Record.Causes[0].Uri
		if err := d.published(ctx, b.URI); err != nil {
			return nil, err
		}
		out = append(out, offering, b.URI, atURI(authorOf(offering), lexicons.OfferRedemption, rkeyOf(b.URI)).String())
	}
	return out, nil
}

// mintChain prefers a public task, where the claim and the proof may be shown.
func (d *demo) mintChain(ctx context.Context) ([]string, error) {
	rows := slices.Clone(d.rows)
	slices.SortStableFunc(rows, func(a, b *row) int { return sensitivityRank(a) - sensitivityRank(b) })
	for _, r := range rows {
		if !r.open() {
			continue
		}
		claims, err := d.issuerClaims(ctx, r)
		if err != nil {
			return nil, err
		}
		verified, err := d.verified(ctx, r.issuer.DID)
		if err != nil {
			return nil, err
		}
		for i := range claims {
			w := toVerify{row: r, claim: &claims[i]}
			ref := verified[subjectOf(w)]
			if !w.claim.minted() || w.claim.TaskCID != r.ref.Cid && r.task.Supersedes != nil || ref == nil {
				continue
			}
			e, err := d.decided(ctx, ref)
			if err != nil {
				return nil, err
			}
			if e.Seq == nil {
				continue
			}
			out := []string{r.entryRef.Uri, r.ref.Uri}
			if sensitivityRank(r) == 0 {
				out = append(out, w.claim.Claim, w.claim.Proof)
			}
			receipt := atURI(d.ledger.did, lexicons.LedgerReceipt, lexicons.SeqKey(*e.Seq)).String()
			return append(out, ref.Uri, receipt), d.published(ctx, receipt)
		}
	}
	return nil, errors.New("no minted claim to show")
}

func sensitivityRank(r *row) int {
	if r.entry.Sensitivity == "public" {
		return 0
	}
	return 1
}

// published waits until the ledger's own repository has a receipt.
func (d *demo) published(ctx context.Context, uri string) error {
	ctx, cancel := context.WithTimeout(ctx, publishTime)
	defer cancel()
	for {
		rec, err := d.pds.get(ctx, authorOf(uri), lexicons.LedgerReceipt, rkeyOf(uri))
		if err != nil || rec != nil {
			return err
		}
		if pause(ctx, 5*pollEvery) != nil {
			return fmt.Errorf("the ledger has not published %s", uri)
		}
	}
}

func (r *report) print(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name string, v any) { fmt.Fprintf(t, "%s\t%v\n", name, v) }
	fmt.Fprintln(t)
	line("city", r.City)
	line("capacity a month", r.CapacityMonth)
	line("cap of the epoch", fmt.Sprintf("%d (%d not allocated)", r.CapEpoch, r.CapUnallocated))
	line("tasks", r.Tasks)
	line("reserved", r.Reserved)
	line("claims", r.Claims)
	line("minted", fmt.Sprintf("%d for %d verifications", r.Minted, r.Verifications))
	line("votes", r.Votes)
	line("burned", r.Burned)
	line("reviews", r.Reviews)
	line("checkpoint", fmt.Sprintf("%d %s", r.Checkpoint.Size, r.Checkpoint.Root))
	fmt.Fprintln(t)
	fmt.Fprintln(t, "issuer\tallocation\treserved\tminted\tcap used")
	for _, i := range r.Issuers {
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\n", i.ID, i.Allocation, i.Reserved, i.Minted, percent(i.Reserved, i.Allocation))
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "refused\tas\tfigures")
	for _, x := range r.tries {
		got := x.Got
		if x.Got != x.Want {
			got = fmt.Sprintf("%s, NOT %s", x.Got, x.Want)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", x.What, got, figuresOf(x.Figures))
	}
	for _, u := range r.unfit {
		fmt.Fprintf(t, "task %s of the catalog\t%s\t%s\n", u.ID, u.refused.Error, figuresOf(u.refused.Figures))
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "shown\tfigures")
	for _, x := range r.Shown {
		fmt.Fprintf(t, "%s\t%s\n", x.What, figuresOf(x.Figures))
	}
	fmt.Fprintln(t)
	line("log", r.ledger+"/checkpoint")
	line("pages", r.web)
	for _, uri := range r.Evidence {
		line("evidence", pageOf(r.web, uri))
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// pageOf is where the AppView shows a record.
func pageOf(web, uri string) string { return web + "/record/" + strings.TrimPrefix(uri, "at://") }

func percent(part, whole int64) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%d.%d %%", part*100/whole, part*1000/whole%10)
}

func figuresOf(figures map[string]any) string {
	out := ""
	for _, k := range slices.Sorted(maps.Keys(figures)) {
		if out != "" {
			out += " "
		}
		out += fmt.Sprintf("%s=%v", k, figures[k])
	}
	return out
}
