package index_test

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/ledger/rules"
	"city-sync.org/citysync/ledger/rules/rulestest"
	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

const someCID = "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"

type object = map[string]any

func bytesOf(b []byte) object { return object{"$bytes": base64.RawStdEncoding.EncodeToString(b)} }

// copies are what a ledger publishes about its log.
type copies struct {
	*world
	p   *publisher
	reg *prometheus.Registry
	log []entry.Entry
}

// newCopies follows a log of a mint, a burn and a digest.
func newCopies(t *testing.T) *copies {
	t.Helper()
	c := &copies{world: newWorld(t), p: newPublisher(t), reg: prometheus.NewRegistry()}
	town := rulestest.NewTown(t)
	town.Earn(0, 1)
	town.Now = town.At("2027-01-04 13:00")
	town.Must(town.Burn(0, 1))
	town.Must(rules.Digest{Now: town.Now, Seed: make([]byte, 32)})
	for _, e := range town.Entries {
		for i := range e.Causes {
			e.Causes[i].CID = someCID // a record cites by a real one
		}
		if e.Params != nil {
			e.Params = &entry.Ref{URI: e.Params.URI, CID: someCID}
		}
		leaf, err := e.Encode()
		require.NoError(t, err)
		require.NoError(t, c.p.tree.Append(leaf))
		c.log, c.p.leaves = append(c.log, e), append(c.p.leaves, leaf)
	}
	c.p.served = int64(len(c.p.leaves))
	var err error
	c.x, err = index.New(c.role, c.clock, slog.New(slog.DiscardHandler), c.reg)
	require.NoError(t, err)
	return c
}

func (c *copies) first(kind entry.Kind) *entry.Entry {
	c.t.Helper()
	for i := range c.log {
		if c.log[i].Kind == kind {
			return &c.log[i]
		}
	}
	require.Fail(c.t, "no entry", string(kind))
	return nil
}

// receipt is an honest one.
func (c *copies) receipt(e *entry.Entry) object {
	c.t.Helper()
	hash := tlog.LeafHash(c.p.leaves[e.Seq])
	causes := []object{}
	for _, x := range e.Causes {
		causes = append(causes, object{"uri": x.URI, "cid": x.CID})
	}
	r := object{
		"seq": e.Seq, "kind": e.Kind.Receipt(), "book": e.Book, "epoch": e.Epoch, "amount": e.Amount, "votes": e.Votes, "day": e.Day,
		"leafHash": bytesOf(hash[:]), "causes": causes, "issuer": e.Org,
	}
	if _, params := e.ReceiptCauses(nil); params != nil {
		r["parameterSet"] = object{"uri": params.URI, "cid": params.CID}
	}
	if e.Cap != nil {
		r["capState"] = object{"cap": e.Cap.Cap, "issuedBefore": e.Cap.Before}
	}
	if e.Kind == entry.KindMint {
		r["subject"] = object{"$type": "org.city-sync.defs#blindedSubject", "alg": "hmac-sha256-context-v1", "value": bytesOf(e.Nullifier)}
	} else {
		r["subject"] = object{"$type": "org.city-sync.defs#commitment", "alg": "sha256-merkle-v1", "value": bytesOf(e.Commitment.Value), "padded": e.Commitment.Padded}
	}
	return r
}

// checkpoint is an honest one of the whole log.
func (c *copies) checkpoint() object {
	c.t.Helper()
	size := int64(len(c.p.leaves))
	root, err := c.p.tree.Root(size)
	require.NoError(c.t, err)
	digest := c.first(entry.KindStateDigest)
	hash, err := entry.BalancesHash(digest.StateDigest.Balances)
	require.NoError(c.t, err)
	signed, err := tlog.Sign(tlog.Checkpoint{
		Origin: ledgerDID, Size: size, Root: root, Extensions: []string{tlog.BalancesLine(digest.Seq, hash)},
	}, c.p.skey)
	require.NoError(c.t, err)
	var supply []object
	for _, b := range digest.StateDigest.Balances {
		supply = append(supply, object{"book": b.Book, "amount": b.Sum})
	}
	return object{
		"origin": ledgerDID, "treeSize": size, "rootHash": bytesOf(root[:]), "note": string(signed), "at": "2027-01-04T21:00:00Z",
		"balancesRoot": bytesOf(hash[:]), "supply": supply,
	}
}

func (c *copies) put(a *author, nsid, rkey string, record object) {
	c.t.Helper()
	record = maps.Clone(record)
	record["$type"] = nsid
	raw, err := json.Marshal(record)
	require.NoError(c.t, err)
	cbor, err := lexicons.EncodeJSONToCBOR(raw)
	require.NoError(c.t, err)
	require.NoError(c.t, lexicons.Validate(nsid, rkey, cbor))
	action := repo.Create
	if c.count("select count(*) from record where did = $1 and coll = $2 and rkey = $3", a.did.String(), nsid, rkey) > 0 {
		action = repo.Update
	}
	a.put(action, nsid, rkey, cbor)
}

// compared waits until nothing is left to compare, and gives what was found.
func (c *copies) compared() string {
	c.t.Helper()
	require.Eventually(c.t, func() bool { return c.count("select count(*) from log_pending") == 0 }, 20*time.Second, 5*time.Millisecond)
	var what string
	require.NoError(c.t, c.pool.QueryRow(c.t.Context(), "select coalesce(string_agg(what, ' | '), '') from log_differs").Scan(&what))
	return what
}

// alarm waits until as many records of a collection are an alarm.
func (c *copies) alarm(coll string, want float64) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		families, err := c.reg.Gather()
		require.NoError(c.t, err)
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == "citysync_appview_differs" && m.GetLabel()[0].GetValue() == coll {
					return m.GetGauge().GetValue() == want
				}
			}
		}
		return false
	}, 20*time.Second, 5*time.Millisecond, "%s: %v", coll, want)
}

// What the ledger publishes is a copy. One that is not its leaf is marked and is an alarm, until the ledger mends it.
func TestARecordThatDiffersFromTheLogIsAnAlarm(t *testing.T) {
	t.Parallel()
	c := newCopies(t)
	ledger := c.author(ledgerDID)
	mint, burn := c.first(entry.KindMint), c.first(entry.KindBurn)
	size := lexicons.SeqKey(int64(len(c.p.leaves)))
	good := map[string]object{lexicons.SeqKey(mint.Seq): c.receipt(mint), lexicons.SeqKey(burn.Seq): c.receipt(burn)}
	for key, r := range good {
		c.put(ledger, lexicons.LedgerReceipt, key, r)
	}
	c.put(ledger, lexicons.LedgerCheckpoint, size, c.checkpoint())
	assert.Equal(t, 3, c.count("select count(*) from log_pending"), "they came before the log")
	c.follow(c.p)
	require.Empty(t, c.compared())
	c.alarm(lexicons.LedgerReceipt, 0)
	c.alarm(lexicons.LedgerCheckpoint, 0)

	zeros := bytesOf(make([]byte, 32))
	for _, evil := range []struct {
		coll, key, field string
		value            any
		says             string
	}{
		{lexicons.LedgerReceipt, lexicons.SeqKey(mint.Seq), "amount", 17, "amount is 17, the entry says 16"},
		{lexicons.LedgerReceipt, lexicons.SeqKey(burn.Seq), "kind", "adjustment", "kind is adjustment, the entry says burn"},
		{lexicons.LedgerReceipt, lexicons.SeqKey(mint.Seq), "votes", 1, "votes is 1, the entry says 16"},
		{lexicons.LedgerReceipt, lexicons.SeqKey(mint.Seq), "issuer", city, "issuer is " + city},
		{lexicons.LedgerReceipt, lexicons.SeqKey(burn.Seq), "day", "2027-01-05", "day is 2027-01-05, the entry says 2027-01-04"},
		{lexicons.LedgerReceipt, lexicons.SeqKey(burn.Seq), "leafHash", zeros, "leafHash is 0000"},
		{lexicons.LedgerReceipt, lexicons.SeqKey(burn.Seq), "subject", object{"$type": "org.city-sync.defs#commitment", "alg": "sha256-merkle-v1", "value": zeros, "padded": 8}, "its subject is not the entry's commitment"},
		{lexicons.LedgerCheckpoint, size, "rootHash", zeros, "rootHash is 0000"},
		{lexicons.LedgerCheckpoint, size, "note", strings.Replace(c.checkpoint()["note"].(string), "balances", "balance", 1), "its note: "},
		{lexicons.LedgerCheckpoint, size, "balancesRoot", zeros, "balancesRoot is 0000"},
		{lexicons.LedgerCheckpoint, size, "supply", []object{{"book": rulestest.Book, "amount": 13}}, "supply of standard is 13"},
	} {
		honest := c.checkpoint()
		if evil.coll == lexicons.LedgerReceipt {
			honest = good[evil.key]
		}
		forged := maps.Clone(honest)
		forged[evil.field] = evil.value
		c.put(ledger, evil.coll, evil.key, forged)
		assert.Contains(t, c.compared(), evil.says, "%s of %s", evil.field, evil.coll)
	}
	c.alarm(lexicons.LedgerReceipt, 2)
	c.alarm(lexicons.LedgerCheckpoint, 1)
	for key, r := range good {
		c.put(ledger, lexicons.LedgerReceipt, key, r)
	}
	c.put(ledger, lexicons.LedgerCheckpoint, size, c.checkpoint())
	assert.Empty(t, c.compared(), "mended")
	c.alarm(lexicons.LedgerReceipt, 0)
	c.alarm(lexicons.LedgerCheckpoint, 0)

	// A stranger's receipt is about no entry.
	forged := maps.Clone(good[lexicons.SeqKey(mint.Seq)])
	forged["amount"] = 99
	c.put(c.author("did:plc:ewvi7nxzyoun6zhxrhs64oiz"), lexicons.LedgerReceipt, lexicons.SeqKey(mint.Seq), forged)
	assert.Empty(t, c.compared())
}

// A record may be seen a moment before the log that it is about, and not for long.
func TestARecordOfWhatTheLogDoesNotHaveIsAnAlarm(t *testing.T) {
	t.Parallel()
	c := newCopies(t)
	ledger := c.author(ledgerDID)
	c.follow(c.p)
	c.eventually(len(c.p.leaves))
	beyond := c.receipt(c.first(entry.KindMint))
	seq := int64(len(c.p.leaves)) + 5
	beyond["seq"] = seq
	c.put(ledger, lexicons.LedgerReceipt, lexicons.SeqKey(seq), beyond)
	c.p.looks()
	assert.Zero(t, c.count("select count(*) from log_differs"))
	c.clock.Advance(11 * time.Minute)
	c.alarm(lexicons.LedgerReceipt, 1)
	assert.Equal(t, 1, c.count("select count(*) from log_differs where what like 'the log has no entry %'"))
	a := ledger
	a.put(repo.Delete, lexicons.LedgerReceipt, lexicons.SeqKey(seq), nil)
	c.alarm(lexicons.LedgerReceipt, 0)
}
