package main

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

func chainOf(t *testing.T, r verifyResult) verifyCheck {
	t.Helper()
	i := slices.IndexFunc(r.Checks, func(k verifyCheck) bool { return k.Name == checkChain })
	require.GreaterOrEqual(t, i, 0)
	return r.Checks[i]
}

// the uri of the first cause of the first entry of a kind.
func (c *smallCity) causeOf(kind entry.Kind) string {
	c.t.Helper()
	e, err := entry.Decode(c.leaves[c.seqOf(kind)])
	require.NoError(c.t, err)
	return e.Causes[0].URI
}

func TestVerifyFollowsTheChainOfARecord(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	resident := c.account("resident", "")
	taskURI := c.causeOf(entry.KindReserve)
	task, err := entry.Decode(c.leaves[c.seqOf(entry.KindReserve)])
	require.NoError(t, err)
	claim := c.put(resident, lexicons.WorkClaim, lexicons.ClaimKey(taskURI, "a"), anyMap{
		"task": refOf(task.Causes[0]), "shiftId": "a", "createdAt": "2027-01-04T17:00:00Z",
	})
	receipt := "at://" + c.ledger.DID.String() + "/" + lexicons.LedgerReceipt + "/" + lexicons.SeqKey(c.seqOf(entry.KindMint))
	for name, want := range map[string]struct {
		uri   string
		links []string
	}{
		"of a verification, to its receipt and to the founding": {c.causeOf(entry.KindMint), []string{
			"(mint)", "(claim)", "(reserve)", "(epochOpen)", "(bind)", "work.task", "catalog.entry", "gov.decision", "ledger.receipt",
		}},
		"of a receipt, back to the draft": {receipt, []string{"(mint)", "work.verification", "at://" + c.library.DID.String() + "/" + lexicons.CatalogEntry}},
		"of a task":                       {taskURI, []string{"(reserve)", "(bind)", "registry.accreditation"}},
		"of an offering":                  {c.causeOf(entry.KindBurn), []string{"(epochOpen)"}},
		"of a resident's claim, whose author names no city": {claim.URI, []string{"work.claim", "work.task", "(reserve)"}},
		"of the city itself": {"at://" + c.city.DID.String() + "/org.city-sync.actor.city/self", []string{"actor.city"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := c.verify(want.uri)
			require.NoError(t, err)
			require.Empty(t, lines(r))
			require.True(t, r.OK)
			for _, link := range want.links {
				assert.Contains(t, chainOf(t, r).Detail, link)
			}
		})
	}
}

func TestVerifySaysWhatIsMissingFromAChain(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.publish()
	reserve, err := entry.Decode(c.leaves[c.seqOf(entry.KindReserve)])
	require.NoError(t, err)
	record := c.verification(reserve.Causes[0])
	record["createdAt"] = "2027-01-04T18:45:00Z"
	idle := c.put(c.library, lexicons.WorkVerification, c.tid(), record)
	r, err := c.verify(idle.URI)
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkChain, noEntry, idle.URI + ": no entry of the log rests on it"})

	r, err = c.verify("at://" + c.library.DID.String() + "/" + lexicons.WorkTask + "/" + c.tid())
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkChain, noEntry, "there is no such record"})

	origin := "at://" + c.library.DID.String() + "/" + lexicons.CatalogEntry
	for path, id := range c.library.Paths() {
		if strings.HasPrefix(path, lexicons.CatalogEntry) {
			c.library.Commit(repo.Write{Action: repo.Delete, Collection: lexicons.CatalogEntry, RKey: path[strings.Index(path, "/")+1:]})
			delete(c.evidence, id.String())
		}
	}
	r, err = c.verify(c.causeOf(entry.KindMint))
	require.NoError(t, err)
	requireWrong(t, r, wrongAt{checkChain, noEntry, origin})
}

func TestVerifyTellsWhatItCouldNotCheck(t *testing.T) {
	t.Parallel()
	empty := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(empty.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	c := newSmallCity(t)
	c.publish()
	for name, args := range map[string][]string{
		"no address":               {},
		"two addresses":            {c.log.URL, c.log.URL},
		"no http address":          {"ftp://localhost"},
		"nobody there":             {gone.URL},
		"not a city":               {empty.URL},
		"an unknown flag":          {c.log.URL, "--quick"},
		"a record by handle":       {"at://library.test/org.city-sync.work.task/3mcx5l2w5ss2d", "--plc-url", c.plc.URL},
		"a record of nobody":       {"at://did:plc:aaaaaaaaaaaaaaaaaaaaaaaa/org.city-sync.work.task/3mcx5l2w5ss2d", "--plc-url", c.plc.URL},
		"no record":                {"at://" + c.city.DID.String(), "--plc-url", c.plc.URL},
		"a directory that is none": {c.log.URL, "--plc-url", empty.URL},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out, messages bytes.Buffer
			code := run(t.Context(), append([]string{"citysync", "verify"}, args...), nil, streams{&out, &messages})
			assert.Equal(t, 2, code, "%s%s", out.String(), messages.String())
			assert.NotEmpty(t, messages.String())
		})
	}
}

func TestVerifyExitsOneAndNamesTheEntry(t *testing.T) {
	t.Parallel()
	c := newSmallCity(t)
	c.edit(entry.KindMint, func(e *entry.Entry) { e.Votes = 3 })
	c.publish()
	var out, messages bytes.Buffer
	code := run(t.Context(), []string{"citysync", "verify", c.log.URL + "/"}, nil, streams{&out, &messages})
	assert.Equal(t, 1, code, messages.String())
	assert.Regexp(t, `(?m)^WRONG  votes +1`, out.String())
	assert.Regexp(t, `(?m)^ok     leaves +\d+`, out.String())
	assert.Regexp(t, `(?m)^entry \d+: 3 votes for 16 credits$`, out.String())
	assert.Contains(t, out.String(), "Not visible from outside")
}

// Whatever one endpoint answers, the verification ends, and nothing comes out right.
func TestVerifyDoesNotBelieveGarbage(t *testing.T) {
	t.Parallel()
	garbage := map[string]func([]byte) []byte{
		"nothing":   func([]byte) []byte { return []byte{} },
		"text":      func([]byte) []byte { return []byte("<html>hello</html>") },
		"half":      func(b []byte) []byte { return b[:len(b)/2] },
		"twice":     func(b []byte) []byte { return append(slices.Clone(b), b...) },
		"too much":  func([]byte) []byte { return bytes.Repeat([]byte{0xff}, 6<<20) },
		"deep JSON": func([]byte) []byte { return bytes.Repeat([]byte("["), 100_000) },
		"deep CBOR": func([]byte) []byte { return bytes.Repeat([]byte{0x81}, 100_000) },
		"zeros":     func(b []byte) []byte { return make([]byte, len(b)) },
		"base64":    func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) },
	}
	for name, spoil := range garbage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newSmallCity(t)
			c.publish()
			for _, path := range []string{
				"/.well-known/citysync.json", "/checkpoint", c.bundlePath(), strings.Replace(c.bundlePath(), "entries", "0", 1),
			} {
				c.instead = map[string]func([]byte) []byte{path: spoil}
				r, err := c.verify("")
				assert.False(t, err == nil && r.OK, "%s as %s passes", path, name)
			}
		})
	}
}

// A host of repositories that lies about one account cannot make the city's word or a receipt.
func TestVerifyDoesNotBelieveAHostOfRepositories(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"city", "ledger", "library"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newSmallCity(t)
			c.publish()
			a := map[string]syntax.DID{"city": c.city.DID, "ledger": c.ledger.DID, "library": c.library.DID}[name]
			other := *c.bus // another account's repository under this name
			c.accounts[a] = &other
			c.evidence = nil
			r, err := c.verify("")
			assert.False(t, err == nil && r.OK)
		})
	}
}
