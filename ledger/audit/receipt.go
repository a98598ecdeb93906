package audit

import (
	"bytes"
	"fmt"
	"strings"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons/citysync"
)

// ReceiptDiffers says in what a published receipt is not its entry. basis is the entry that its causes or parameters are taken from; nil where
// there is none.
func ReceiptDiffers(r *citysync.LedgerReceipt, e, basis *entry.Entry) []string {
	if e.Kind.Receipt() == "" {
		return []string{fmt.Sprintf("a receipt of a %s, which makes none", e.Kind)}
	}
	var out []string
	differ := func(what string, receipt, leaf any) {
		if receipt != leaf {
			out = append(out, fmt.Sprintf("%s is %v, the entry says %v", what, receipt, leaf))
		}
	}
	differ("kind", r.Kind, e.Kind.Receipt())
	differ("book", r.Book, e.Book)
	differ("epoch", r.Epoch, e.Epoch)
	differ("amount", r.Amount, e.Amount)
	differ("votes", orZero(r.Votes), e.Votes)
	differ("day", r.Day, e.Day)
	issuer := ""
	if r.Issuer != nil {
		issuer = *r.Issuer
	}
	differ("issuer", issuer, e.Org.String())
	var causes, revs []string
	from, params := e.ReceiptCauses(basis)
	for _, c := range from {
		causes, revs = append(causes, c.URI+" "+c.CID), append(revs, c.Rev)
	}
	var told []string
	for _, c := range r.Causes {
		if c != nil {
			told = append(told, c.Uri+" "+c.Cid)
		}
	}
	differ("causes", strings.Join(told, ", "), strings.Join(causes, ", "))
	if len(r.CauseRevs) > 0 {
		differ("causeRevs", strings.Join(r.CauseRevs, ", "), strings.Join(revs, ", "))
	}
	if params != nil && r.ParameterSet != nil {
		differ("parameterSet", r.ParameterSet.Uri+" "+r.ParameterSet.Cid, params.URI+" "+params.CID)
	}
	var state entry.CapState
	if r.CapState != nil {
		state = entry.CapState{Cap: r.CapState.Cap, Before: r.CapState.IssuedBefore}
	}
	if e.Cap != nil || r.CapState != nil {
		var want entry.CapState
		if e.Cap != nil {
			want = *e.Cap
		}
		differ("capState", fmt.Sprint(state), fmt.Sprint(want))
	}
	return append(out, subjectDiffers(r, e)...)
}

func subjectDiffers(r *citysync.LedgerReceipt, e *entry.Entry) []string {
	if kind := e.Kind.Receipt(); kind != entry.ReceiptMint && kind != entry.ReceiptBurn {
		if r.Subject != nil {
			return []string{"it has a subject, and the entry has none"}
		}
		return nil
	}
	if r.Subject == nil {
		return []string{"it has no subject"}
	}
	blind, commitment := r.Subject.Defs_BlindedSubject, r.Subject.Defs_Commitment
	switch {
	case e.Kind == entry.KindMint && (blind == nil || !bytes.Equal(blind.Value, e.Nullifier)):
		return []string{"its subject is not the entry's nullifier"}
	case e.Kind != entry.KindMint && (commitment == nil || e.Commitment == nil || !bytes.Equal(commitment.Value, e.Commitment.Value) ||
		commitment.Padded != e.Commitment.Padded):
		return []string{"its subject is not the entry's commitment"}
	}
	return nil
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}
