package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"city-sync.org/citysync/ledger"
	"city-sync.org/citysync/ledger/entry"
)

// own is what a resident's openings come to.
type own struct {
	account entry.Account
	credits map[string]int64 // earned less redeemed
	entries int
}

// ownEntries opens what a resident was given: each is sealed in the log as it says, and all are of one account. A proof of a balance
// leads to a root that the log has.
func (v *verifier) ownEntries(log *verifiedLog) {
	o := &own{credits: map[string]int64{}}
	seqs := slices.Concat(slices.Collect(maps.Keys(v.own.whole)), slices.Collect(maps.Keys(v.own.fields)))
	slices.Sort(seqs)
	for _, seq := range seqs {
		if seq >= log.checkpoint.Size || log.entries[seq] == nil {
			v.report.fail(checkOpenings, seq, "", "an opening of an entry that cannot be had")
			continue
		}
		e := *log.entries[seq]
		account, err := v.own.accountIn(&e)
		if err == nil {
			err = o.add(&e, account)
		}
		if err != nil {
			v.report.fail(checkOpenings, seq, "", "%v", err)
		}
	}
	detail := "entries of one account"
	for _, book := range slices.Sorted(maps.Keys(o.credits)) {
		detail = join(detail, fmt.Sprintf("%s: %d earned less redeemed", book, o.credits[book]))
	}
	for i := range v.own.proofs {
		p := &v.own.proofs[i]
		balance, err := o.proven(p, log)
		if err != nil {
			v.report.fail(checkOpenings, p.Seq, "", "the proof of a balance: %v", err)
			continue
		}
		detail = join(detail, fmt.Sprintf("%d of %s are in the balances of entry %d", balance, p.Book, p.Seq))
	}
	v.report.looked(checkOpenings, o.entries+len(v.own.proofs), detail)
}

// accountIn opens what is given of an entry and finds whose it is; none where no field says it.
func (g *given) accountIn(e *entry.Entry) (account entry.Account, err error) {
	if e.Commitment == nil {
		return account, errors.New("an opening of what is not sealed")
	}
	for _, f := range g.fields[e.Seq] {
		if err := f.Verify(*e.Commitment); err != nil {
			return account, fmt.Errorf("field %.40q: %w", f.Field.Name, err)
		}
		if raw, ok := f.Field.Value.([]byte); ok && f.Field.Name == "account" && len(raw) == len(account) {
			account = entry.Account(raw)
		}
	}
	if g.fields[e.Seq] != nil {
		return account, nil
	}
	o, err := entry.DecodeOpening(g.whole[e.Seq])
	if err == nil {
		err = e.Unseal(o)
	}
	if err != nil {
		return account, err
	}
	return e.Sealed.Account, nil
}

func (o *own) add(e *entry.Entry, account entry.Account) error {
	o.entries++
	if err := o.is(account); err != nil {
		return err
	}
	switch e.Kind {
	case entry.KindMint:
		o.credits[e.Book] += e.Amount
	case entry.KindBurn, entry.KindCapture:
		o.credits[e.Book] -= e.Amount
	}
	return nil
}

// is says that something is of an account, which must be that of all before it.
func (o *own) is(account entry.Account) error {
	none := entry.Account{}
	switch {
	case account == none:
	case o.account == none:
		o.account = account
	case o.account != account:
		return errors.New("it is of another account than the entries before it")
	}
	return nil
}

// proven checks a proof of a balance under the root that the log has at its entry.
func (o *own) proven(p *ledger.BalanceProofView, log *verifiedLog) (int64, error) {
	account, root, shares, err := ledger.ParseBalanceProof(p)
	if err != nil {
		return 0, err
	}
	if err := o.is(account); err != nil {
		return 0, err
	}
	if p.Seq < 0 || p.Seq >= log.checkpoint.Size || log.entries[p.Seq] == nil || log.entries[p.Seq].Kind != entry.KindStateDigest {
		return 0, errors.New("its entry has no balances")
	}
	stands := func(b entry.BalancesRoot) bool {
		return b.Book == root.Book && b.Sum == root.Sum && b.Height == root.Height && bytes.Equal(b.Root, root.Root)
	}
	if !slices.ContainsFunc(log.entries[p.Seq].StateDigest.Balances, stands) {
		return 0, errors.New("its root is not one of its entry's")
	}
	return entry.VerifyBalance(root, account, shares)
}
