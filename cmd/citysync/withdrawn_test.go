package main

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/ledger/entry"
	"city-sync.org/citysync/lexicons"
)

// withdrawAfterMint lets an issuer delete a verification that was minted. The mint stands: it is proved from the commit that the ledger
// kept, and the page says that its author took the record back.
func withdrawAfterMint(t *testing.T, c *runningTown, evidence []string) {
	t.Helper()
	var task, verification string
	for _, uri := range evidence {
		switch syntax.ATURI(uri).Collection().String() {
		case lexicons.WorkTask:
			task = uri
		case lexicons.WorkVerification:
			verification = uri
		}
	}
	d := newDemo(c.ready, minResidents, 1, newProgress(io.Discard))
	require.NoError(t, d.look(t.Context()))
	var issuer *organization
	for _, r := range d.rows {
		if r.issuer.DID == authorOf(verification) {
			issuer = r.issuer
		}
	}
	require.NotNil(t, issuer, verification)
	rec, err := issuer.pds.get(t.Context(), issuer.DID, lexicons.WorkVerification, rkeyOf(verification))
	require.NoError(t, err)
	require.NotNil(t, rec)

	require.NoError(t, issuer.as(t.Context(), func(auth authorize) error {
		in := map[string]any{"repo": issuer.DID, "collection": lexicons.WorkVerification, "rkey": rkeyOf(verification)}
		return issuer.pds.procedure(t.Context(), auth, "com.atproto.repo.deleteRecord", in, nil)
	}))
	gone, err := issuer.pds.get(t.Context(), issuer.DID, lexicons.WorkVerification, rkeyOf(verification))
	require.NoError(t, err)
	require.Nil(t, gone, "deleted")

	// The pages: the record's own, the task's chain, and the same for programs.
	path := "/record/" + strings.TrimPrefix(verification, "at://") + "?cid=" + rec.CID
	require.Eventually(t, func() bool { return strings.Contains(webPage(t, c, path+"&lang=en"), "withdrawn by its author") }, 20*time.Second, 100*time.Millisecond)
	assert.Contains(t, webPage(t, c, path+"&lang=es"), "retiró este registro")
	assert.Contains(t, webPage(t, c, path), `href="/entry/`, "it leads to the mint that stands")
	assert.Contains(t, webPage(t, c, "/task/"+authorOf(task).String()+"/"+rkeyOf(task)+"?lang=en"), "withdrawn by its author")
	timeline := webPage(t, c, "/xrpc/org.city-sync.audit.listTimeline?uri="+url.QueryEscape(task))
	assert.Contains(t, timeline, `"uri":"`+verification+`","cid":"`+rec.CID+`"`)
	assert.Equal(t, 1, strings.Count(timeline, `"withdrawn":true`))

	v := &verifier{report: newVerifyReport(), patience: 5}
	require.NoError(t, v.run(t.Context(), verifyConfig{Target: c.ready.Web}))
	assert.Empty(t, v.report.wrong)
	found, ok := v.cited.found[entry.Ref{URI: verification, CID: rec.CID}]
	require.True(t, ok, "the mint's cause is proved")
	assert.NotEmpty(t, found.rev, "by the commit that the ledger kept, since its author's repository holds it no more")

	chain, err := verifyCity(t.Context(), verifyConfig{Target: verification, PLCURL: c.ready.PLC})
	require.NoError(t, err)
	assert.Empty(t, chain.wrong)
	assert.Contains(t, chain.at(checkChain).Detail, "(mint)", "the record's own chain can still be asked for")
}

// webPage is one page of the city, as a reader gets it.
func webPage(t *testing.T, c *runningTown, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.ready.Web+path, nil)
	require.NoError(t, err)
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, res.StatusCode, "%s: %s", path, raw)
	return string(raw)
}
