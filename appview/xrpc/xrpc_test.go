package xrpc

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/appview/index"
	"city-sync.org/citysync/appview/query"
	"city-sync.org/citysync/internal/pg/pgtest"
	"city-sync.org/citysync/internal/repo"
	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
)

const (
	cityDID = "did:plc:cccccccccccccccccccccccc"
	library = "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"
)

// ledgerStub stands for the ledger's socket: it knows one record.
type ledgerStub struct{ knows string }

func (l ledgerStub) Explain(_ context.Context, uri, _ string) (json.RawMessage, error) {
	if uri != l.knows {
		return nil, xrpc.Errorf(404, "NotSeen", "not seen")
	}
	return json.RawMessage(`{"uri":"` + uri + `","status":"refused","error":"AllocationExceeded","at":"2027-01-12T10:00:00Z"}`), nil
}

// seed stores the schemas' own example of nsid under did, with its row.
func seed(t *testing.T, pool *pgxpool.Pool, did, nsid string) (uri string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", "lexicons", "testdata", "valid", nsid, "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	raw, err := os.ReadFile(files[0])
	require.NoError(t, err)
	var ex struct {
		RKey   string          `json:"rkey"`
		Record json.RawMessage `json:"record"`
	}
	require.NoError(t, json.Unmarshal(raw, &ex))
	if nsid == lexicons.RegistryAccreditation {
		ex.RKey = library
		ex.Record = json.RawMessage(strings.Replace(string(ex.Record), `"org"`, `"org": "`+library+`", "wasOrg"`, 1))
	}
	cbor, err := lexicons.EncodeJSONToCBOR(ex.Record)
	require.NoError(t, err)
	args := pgx.NamedArgs{"did": did, "coll": nsid, "rkey": ex.RKey, "cid": repo.CIDForCBOR(cbor).String(), "cbor": cbor}
	_, err = pool.Exec(t.Context(), `insert into record (did, coll, rkey, cid, rev, cbor, indexed) values (@did, @coll, @rkey, @cid, '3k', @cbor, now())`, args)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `insert into record_version (did, coll, rkey, cid, rev, cbor, seen) values (@did, @coll, @rkey, @cid, '3k', @cbor, now())`, args)
	require.NoError(t, err)
	return "at://" + did + "/" + nsid + "/" + ex.RKey
}

// serve is the AppView's methods over real HTTP, on a small city.
func serve(t *testing.T) (base string, uris map[string]string) {
	t.Helper()
	pool := pgtest.Schema(t, index.Migrations())
	uris = map[string]string{}
	for _, nsid := range []string{lexicons.ActorCity, lexicons.RegistryAccreditation, lexicons.CatalogEntry, lexicons.GovDecision, lexicons.GovDispute,
		lexicons.GovResolution, lexicons.LedgerEpochReport, lexicons.LedgerCheckpoint, lexicons.LedgerCosignature} {
		uris[nsid] = seed(t, pool, cityDID, nsid)
	}
	for _, nsid := range []string{lexicons.ActorOrganization, lexicons.ActorDeclaration, lexicons.WorkTask, lexicons.WorkVerification, lexicons.OfferOffering} {
		uris[nsid] = seed(t, pool, library, nsid)
	}
	require.NoError(t, index.Rebuild(t.Context(), pool))
	mux := xrpc.NewMux(xrpc.Config{})
	Register(mux, query.New(pool, cityDID), ledgerStub{knows: uris[lexicons.WorkTask]})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL, uris
}

func ask(t *testing.T, base, nsid string, params url.Values) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/xrpc/"+nsid+"?"+params.Encode(), nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, raw
}

func TestEveryAnswerFollowsItsSchemaAndShowsTheRecord(t *testing.T) {
	t.Parallel()
	base, uris := serve(t)
	for nsid, params := range map[string]url.Values{
		"org.city-sync.actor.getCity":           {},
		"org.city-sync.actor.getProfile":        {"actor": {library}},
		"org.city-sync.actor.listOrganizations": {"limit": {"1"}},
		"org.city-sync.catalog.listEntries":     {"status": {"active"}},
		"org.city-sync.catalog.getEntry":        {"uri": {uris[lexicons.CatalogEntry]}},
		"org.city-sync.work.queryTasks":         {"issuer": {library}, "accepted": {"false"}},
		"org.city-sync.work.getTasks":           {"uris": {uris[lexicons.WorkTask], "at://did:plc:zzzzzzzzzzzzzzzzzzzzzzzz/org.city-sync.work.task/3k"}},
		"org.city-sync.offer.queryOfferings":    {},
		"org.city-sync.offer.getOfferings":      {"uris": {uris[lexicons.OfferOffering]}},
		"org.city-sync.audit.listTimeline":      {"uri": {uris[lexicons.WorkTask]}},
		"org.city-sync.audit.explainRecord":     {"uri": {uris[lexicons.WorkTask]}},
		"org.city-sync.audit.listEpochReports":  {"book": {"std"}},
		"org.city-sync.gov.listDisputes":        {"limit": {"1"}},
		"org.city-sync.gov.getDispute":          {"uri": {uris[lexicons.GovDispute]}},
	} {
		code, raw := ask(t, base, nsid, params)
		require.Equal(t, http.StatusOK, code, "%s: %s", nsid, raw)
		require.NoError(t, lexicons.CheckOutput(nsid, raw), "%s: %s", nsid, raw)
		if !strings.Contains(nsid, ".audit.") || strings.Contains(nsid, "Reports") {
			assert.Contains(t, string(raw), `"$type":"org.city-sync.`, "%s carries the record", nsid)
		}
	}
}

func TestWhatTheIndexDoesNotHoldIsNamed(t *testing.T) {
	t.Parallel()
	base, _ := serve(t)
	unknown := "at://did:plc:zzzzzzzzzzzzzzzzzzzzzzzz/org.city-sync.work.task/3k"
	for nsid, c := range map[string]struct {
		params url.Values
		code   int
		name   string
	}{
		"org.city-sync.actor.getProfile":     {url.Values{"actor": {"did:plc:zzzzzzzzzzzzzzzzzzzzzzzz"}}, 404, "NotFound"},
		"org.city-sync.catalog.getEntry":     {url.Values{"uri": {"not a uri"}}, 404, "NotFound"},
		"org.city-sync.audit.listTimeline":   {url.Values{"uri": {unknown}}, 404, "NotFound"},
		"org.city-sync.audit.explainRecord":  {url.Values{"uri": {unknown}}, 404, "NotFound"},
		"org.city-sync.audit.getFinality":    {url.Values{}, 404, "NotFound"},
		"org.city-sync.gov.getDispute":       {url.Values{"uri": {unknown}}, 404, "NotFound"},
		"org.city-sync.work.queryTasks":      {url.Values{"cursor": {"!!"}}, 400, "BadCursor"},
		"org.city-sync.offer.queryOfferings": {url.Values{"limit": {"101"}}, 400, "InvalidRequest"},
	} {
		code, raw := ask(t, base, nsid, c.params)
		assert.Equal(t, c.code, code, "%s: %s", nsid, raw)
		assert.Contains(t, string(raw), `"error":"`+c.name+`"`, nsid)
	}
}

func TestRefusalIsShownAsTheLedgersStatement(t *testing.T) {
	t.Parallel()
	base, uris := serve(t)
	_, raw := ask(t, base, "org.city-sync.audit.explainRecord", url.Values{"uri": {uris[lexicons.WorkTask]}})
	assert.Contains(t, string(raw), `"ledger":{`)
	assert.Contains(t, string(raw), `AllocationExceeded`)
}
