package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/tlog"
	"city-sync.org/citysync/lexicons"
)

// logLines collects what a city logs.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logLines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(l.buf.String(), "\n")
}

// nobodyIsNamed reads everything that a city which lived through a demonstration shows and logs. A person stands in no leaf, in no record
// of the ledger, and in no record of an organization other than the verification of a task that is public; in no log line beside an act.
func nobodyIsNamed(t *testing.T, c *runningTown) {
	t.Helper()
	w := newWeb(true)
	get := func(address string, into any) []byte {
		t.Helper()
		body, err := w.get(t.Context(), address, maxVerifyBundle)
		require.NoError(t, err)
		if into != nil {
			require.NoError(t, json.Unmarshal(body, into))
		}
		return body
	}
	var listed struct{ Repos []struct{ DID string } }
	get(w.xrpc(c.ready.PDS, "com.atproto.sync.listRepos", url.Values{"limit": {"1000"}}), &listed)
	offices := map[string]bool{c.ready.City.DID: true, c.ready.LedgerDID: true}
	for _, a := range c.ready.Accounts {
		offices[a.DID] = true
	}
	person := map[string]string{} // what names a person: DIDs and handles
	for _, r := range listed.Repos {
		if offices[r.DID] {
			continue
		}
		var d struct{ Handle string }
		get(w.xrpc(c.ready.PDS, "com.atproto.repo.describeRepo", url.Values{"repo": {r.DID}}), &d)
		person[r.DID], person[d.Handle] = r.DID, r.DID
	}
	require.GreaterOrEqual(t, len(person), 2*minResidents)
	names := func(text string) string {
		for name := range person {
			if strings.Contains(text, name) {
				return name
			}
		}
		return ""
	}

	note := string(get(c.ready.Ledger+"/checkpoint", nil))
	cp, err := tlog.ParseCheckpoint(note[:strings.Index(note, "\n\n")+1])
	require.NoError(t, err)
	for _, tile := range tlog.Tiles(tlog.EntriesLevel, cp.Size) {
		assert.Empty(t, names(string(get(c.ready.Ledger+"/"+tile.Path(), nil))), "%s names a person", tile.Path())
	}

	public := publicTasks(t, c)
	pds := newPDSClient(endpoint{base: c.ready.PDS, http: httpClient()})
	cited := 0
	for office := range offices {
		var d struct{ Collections []string }
		get(w.xrpc(c.ready.PDS, "com.atproto.repo.describeRepo", url.Values{"repo": {office}}), &d)
		for _, coll := range d.Collections {
			records, err := pds.list(t.Context(), syntax.DID(office), coll)
			require.NoError(t, err)
			for _, r := range records {
				if names(string(r.Value)+r.URI.String()) == "" {
					continue
				}
				if coll == lexicons.GovResolution { // it answers what somebody wrote in public, and names nothing else of them
					var v struct{ Dispute struct{ URI string } }
					require.NoError(t, json.Unmarshal(r.Value, &v))
					assert.Empty(t, names(strings.ReplaceAll(string(r.Value), v.Dispute.URI, "")), "%s", r.URI)
					continue
				}
				cited++
				var v struct {
					Subject struct {
						Type string `json:"$type"`
					}
					Task struct{ URI string }
				}
				require.NoError(t, json.Unmarshal(r.Value, &v))
				assert.Equal(t, lexicons.WorkVerification+"#publicClaim", v.Subject.Type, "%s names a person", r.URI)
				assert.True(t, public[v.Task.URI], "%s names a person, its task is not public", r.URI)
			}
		}
	}
	assert.Positive(t, cited, "of public tasks the claim is named, so the search finds names")

	for _, line := range c.logs.all() {
		assert.NotContains(t, line, "eyJ", "a token in the log")
		assert.NotContains(t, line, c.ready.AdminPassword)
		for _, a := range c.ready.Accounts {
			assert.NotContains(t, line, a.Password)
		}
		if name := names(line); name != "" { // that an account exists is public; what it did is not for the log
			assert.Contains(t, line, `"account created"`, "%s", line)
			assert.NotContains(t, line, "org.city-sync")
		}
	}
}

// publicTasks are the tasks whose entry the city approved as public.
func publicTasks(t *testing.T, c *runningTown) map[string]bool {
	t.Helper()
	pds := newPDSClient(endpoint{base: c.ready.PDS, http: httpClient()})
	entries := map[string]bool{}
	list, err := pds.list(t.Context(), syntax.DID(c.ready.City.DID), lexicons.CatalogEntry)
	require.NoError(t, err)
	for _, r := range list {
		var e struct{ Sensitivity string }
		require.NoError(t, json.Unmarshal(r.Value, &e))
		entries[r.URI.String()] = e.Sensitivity == "public"
	}
	out := map[string]bool{}
	for _, a := range c.ready.Accounts {
		tasks, err := pds.list(t.Context(), syntax.DID(a.DID), lexicons.WorkTask)
		require.NoError(t, err)
		for _, r := range tasks {
			var v struct{ Entry struct{ URI string } }
			require.NoError(t, json.Unmarshal(r.Value, &v))
			out[r.URI.String()] = entries[v.Entry.URI]
		}
	}
	require.NotEmpty(t, out, fmt.Sprint(c.ready.Accounts))
	return out
}
