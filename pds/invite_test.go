package pds

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asOperator calls a procedure with the operator's password.
func (b *bed) asOperator(nsid string, body any) answer {
	b.t.Helper()
	raw, err := json.Marshal(body)
	require.NoError(b.t, err)
	req, err := http.NewRequest(http.MethodPost, b.url+"/xrpc/"+nsid, bytes.NewReader(raw))
	require.NoError(b.t, err)
	req.Header.Set("Content-Type", "application/json")
	req.SetBasicAuth("admin", adminPassword)
	return b.do(req)
}

func (b *bed) signUp(handle, code string) answer {
	b.t.Helper()
	return b.post("", "com.atproto.server.createAccount", m{"handle": handle, "password": password, "inviteCode": code})
}

func (u *user) invites(params ...string) []any {
	u.t.Helper()
	return u.ok(u.get(u.Access, "com.atproto.server.getAccountInviteCodes", params...)).JSON["codes"].([]any)
}

func TestAccountGivesItsInviteCodesAway(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("library")
	lists := b.ok(b.asOperator("com.atproto.server.createInviteCodes", m{"codeCount": 2, "useCount": 2, "forAccounts": []any{u.DID, "admin"}})).JSON["codes"].([]any)
	require.Len(t, lists, 2)
	own := lists[0].(m)
	assert.Equal(t, u.DID.String(), own["account"])
	assert.Equal(t, "admin", lists[1].(m)["account"])
	codes := own["codes"].([]any)
	require.Len(t, codes, 2)
	code := codes[0].(string)
	assert.Regexp(t, `^127-0-0-1-[a-z2-7]{5}-[a-z2-7]{5}$`, code)
	assert.Len(t, u.invites(), 2, "the operator's are not its own")

	made := b.ok(b.signUp("first.test", " "+strings.ToUpper(code)))
	b.ok(b.signUp("second.test", code))
	assert.Equal(t, "InvalidInviteCode", b.signUp("third.test", code).name())
	var used m
	for _, c := range u.invites() {
		if v := c.(m); v["code"] == code {
			used = v
		}
	}
	require.NotNil(t, used)
	assert.EqualValues(t, 0, used["available"])
	assert.Equal(t, u.DID.String(), used["forAccount"])
	uses := used["uses"].([]any)
	require.Len(t, uses, 2)
	assert.Contains(t, []any{uses[0].(m)["usedBy"], uses[1].(m)["usedBy"]}, made.JSON["did"])
	assert.Len(t, u.invites("includeUsed", "false"), 1)
	assert.Equal(t, "AuthMissing", b.get("", "com.atproto.server.getAccountInviteCodes").name())
}

func TestShutInviteCodesOpenNothing(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("library")
	code := func(account any) string {
		return b.ok(b.asOperator("com.atproto.server.createInviteCode", m{"useCount": 9, "forAccount": account})).str("code")
	}
	operators, own := code("admin"), code(u.DID)
	b.setStatus(u, statusTakendown)
	assert.Equal(t, "InvalidInviteCode", b.signUp("a.test", own).name(), "who was taken down lets nobody in")
	b.setStatus(u, statusActive)
	b.ok(b.signUp("a.test", own))
	s := b.server.Load()
	require.NoError(t, s.disableInvites(t.Context(), []string{operators}, nil))
	assert.Equal(t, "InvalidInviteCode", b.signUp("b.test", operators).name())
	require.NoError(t, s.disableInvites(t.Context(), nil, []syntax.DID{u.DID}))
	assert.Equal(t, "InvalidInviteCode", b.signUp("b.test", own).name())
	assert.Equal(t, true, u.invites()[0].(m)["disabled"])
}

func TestInviteRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	for nsid, ins := range map[string][]m{
		"com.atproto.server.createInviteCode": {
			{}, {"useCount": 0}, {"useCount": 10_001}, {"useCount": 1, "forAccount": "nobody"},
		},
		"com.atproto.server.createInviteCodes": {
			{}, {"useCount": 1, "codeCount": 0}, {"useCount": 1, "codeCount": 101}, {"useCount": 1, "forAccounts": []string{"x"}},
		},
	} {
		for _, in := range ins {
			assert.Equal(t, "InvalidRequest", b.asOperator(nsid, in).name(), "%s %v", nsid, in)
		}
		assert.Equal(t, "AuthenticationRequired", b.post("", nsid, m{"useCount": 1}).name())
		stranger := m{"useCount": 1, "forAccount": "did:plc:nobodynobodynobodynobody", "forAccounts": []string{"did:plc:nobodynobodynobodynobody"}}
		assert.Equal(t, "RepoNotFound", b.asOperator(nsid, stranger).name())
	}
	assert.Zero(t, b.count(`select count(*) from invite`))
	assert.Equal(t, "InvalidInviteCode", b.signUp("a.test", "x\x00y").name())
}

// A code that was given where none is needed is neither used nor, when nothing comes of the account, given back.
func TestOpenRegistrationUsesNoInvite(t *testing.T) {
	t.Parallel()
	b := newBed(t, func(c *Config) { c.InviteRequired = false })
	code := b.invite()
	b.plcDown.Store(true)
	b.signUp("half.test", code)
	b.clock.Advance(25 * time.Hour)
	require.NoError(t, b.server.Load().sweep(t.Context()))
	assert.Zero(t, b.count(`select sum(used) from invite`))
	assert.Zero(t, b.count(`select count(*) from signup`))
}
