package pds

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func repoRef(u *user) m { return m{"$type": "com.atproto.admin.defs#repoRef", "did": u.DID} }

func (u *user) report(reason string, subject m) answer {
	u.t.Helper()
	return u.post(u.Access, "com.atproto.moderation.createReport", m{
		"reasonType": "com.atproto.moderation.defs#reasonSpam", "reason": reason, "subject": subject,
	})
}

func TestReportIsKeptForTheOperators(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, bad := b.account("user"), b.account("bad")
	rec := b.ok(bad.create(note, "a", m{"text": "x"}))
	first := b.ok(u.report("too many", repoRef(bad)))
	record := m{"$type": "com.atproto.repo.strongRef", "uri": rec.str("uri"), "cid": rec.str("cid")}
	second := b.ok(u.report("", record))
	assert.Greater(t, second.JSON["id"], first.JSON["id"])
	assert.Equal(t, u.DID.String(), first.str("reportedBy"))
	assert.Equal(t, bad.DID.String(), first.str("subject", "did"))
	assert.Equal(t, 2, b.count(`select count(*) from report where subject = $1`, bad.DID))
	assert.Equal(t, 1, b.count(`select count(*) from report where uri = $1`, rec.str("uri")))
	b.clock.Advance(reportLife + time.Hour)
	require.NoError(t, b.server.Load().sweep(t.Context()))
	assert.Zero(t, b.count(`select count(*) from report`), "it is not kept for ever")
}

func TestReportRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	for what, subject := range map[string]m{
		"no type": {"did": u.DID}, "no DID": {"$type": "com.atproto.admin.defs#repoRef", "did": "x"}, "another type": {"$type": "a.b.c"},
		"a handle": {"$type": "com.atproto.repo.strongRef", "uri": "at://user.test/a.b.c/d", "cid": someCID},
		"no CID":   {"$type": "com.atproto.repo.strongRef", "uri": "at://" + u.DID.String() + "/a.b.c/d", "cid": "x"},
		"no key":   {"$type": "com.atproto.repo.strongRef", "uri": "at://" + u.DID.String(), "cid": someCID},
	} {
		assert.Equal(t, "InvalidRequest", u.report("", subject).name(), what)
	}
	for _, reason := range []string{strings.Repeat("x", 2001), "a\x00b"} {
		assert.Equal(t, "InvalidRequest", u.report(reason, repoRef(u)).name())
	}
	for _, kind := range []any{"", "spam", strings.Repeat("a", 300) + ".b.c", "a.b.c#x\x00"} {
		a := b.post(u.Access, "com.atproto.moderation.createReport", m{"reasonType": kind, "subject": repoRef(u)})
		assert.Equal(t, "InvalidRequest", a.name(), kind)
	}
	assert.Equal(t, "AuthMissing", b.post("", "com.atproto.moderation.createReport", m{}).name())
	assert.Zero(t, b.count(`select count(*) from report`))
}

func TestReportsOfOneAccountAreBounded(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	_, err := b.pool.Exec(t.Context(), `insert into report (did, subject, kind, created) select $1, $1, 'x', $2 from generate_series(1, $3)`,
		u.DID, b.clock.Now(), maxReports)
	require.NoError(t, err)
	assert.Equal(t, "TooManyReports", u.report("", repoRef(u)).name())
}

func TestReportsGoWithEitherAccount(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, bad := b.account("user"), b.account("bad")
	remove := func(u *user) { b.ok(b.asOperator("com.atproto.admin.deleteAccount", m{"did": u.DID})) }
	b.ok(u.report("", repoRef(bad)))
	remove(bad)
	assert.Zero(t, b.count(`select count(*) from report`))
	other := b.account("other")
	b.ok(u.report("", repoRef(other)))
	remove(u)
	assert.Zero(t, b.count(`select count(*) from report`))
}

func TestHandleAvailabilityTellsOfHandlesAlone(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	b.account("taken").withAddress(someAddress)
	b.account("taken3")
	ask := func(params ...string) answer {
		return b.get("", "com.atproto.temp.checkHandleAvailability", params...)
	}
	assert.Equal(t, handleAvailable, b.ok(ask("handle", "Free.test")).str("result", "$type"))
	gone := b.ok(ask("handle", "TAKEN.test"))
	assert.Equal(t, handleUnavailable, gone.str("result", "$type"))
	var handles []any
	for _, s := range gone.JSON["result"].(m)["suggestions"].([]any) {
		handles = append(handles, s.(m)["handle"])
	}
	assert.Equal(t, []any{"taken2.test", "taken4.test", "taken5.test"}, handles)
	assert.Equal(t, handleUnavailable, b.ok(ask("handle", "admin.test")).str("result", "$type"), "reserved")
	assert.Equal(t, handleAvailable, b.ok(ask("handle", "free.test", "email", someAddress)).str("result", "$type"), "whose address it is stays untold")
	assert.Equal(t, "InvalidEmail", ask("handle", "free.test", "email", "x").name())
	assert.Equal(t, "InvalidHandle", ask("handle", "free").name())
	assert.Equal(t, "UnsupportedDomain", ask("handle", "free.example.com").name())
	assert.Equal(t, "InvalidRequest", ask().name())
}

func TestRevokedCredentialsLockEverybodyOutUntilAReset(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	box := b.withMail()
	u := b.account("user").withAddress(someAddress)
	app := u.appPassword("phone", false)
	assert.Equal(t, "AuthenticationRequired", b.post(u.Access, "com.atproto.temp.revokeAccountCredentials", m{"account": u.DID}).name())
	b.ok(b.asOperator("com.atproto.temp.revokeAccountCredentials", m{"account": u.Handle}))
	assert.Equal(t, "ExpiredToken", b.get(u.Access, "com.atproto.server.getSession").name())
	for _, p := range []string{password, app, ""} {
		assert.NotEmpty(t, u.signIn(p).name())
	}
	require.NoError(t, b.server.Load().sendReset(t.Context(), someAddress))
	b.ok(b.post("", "com.atproto.server.resetPassword", m{"token": box.word(t), "password": "another password"}))
	b.ok(u.signIn("another password"))
	assert.Equal(t, "RepoNotFound", b.asOperator("com.atproto.temp.revokeAccountCredentials", m{"account": "nobody.test"}).name())
	assert.Equal(t, "InvalidRequest", b.asOperator("com.atproto.temp.revokeAccountCredentials", m{"account": "no\x00body"}).name())
}

func (u *user) prefs(access string) []any {
	u.t.Helper()
	return u.ok(u.get(access, "app.bsky.actor.getPreferences")).JSON["preferences"].([]any)
}

func TestPreferencesAreKeptAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u, other := b.account("user"), b.account("other")
	assert.Empty(t, u.prefs(u.Access))
	put := func(access string, list ...any) answer {
		if list == nil {
			list = []any{}
		}
		return b.post(access, "app.bsky.actor.putPreferences", m{"preferences": list})
	}
	tags := m{"$type": "app.bsky.actor.defs#interestsPref", "tags": []any{"parks", "a\x00b"}}
	birth := m{"$type": personalDetails, "birthDate": "1990-01-01T00:00:00Z"}
	b.ok(put(u.Access, tags, birth))
	assert.Equal(t, []any{tags, birth}, u.prefs(u.Access))
	assert.Empty(t, other.prefs(other.Access))

	app := b.ok(u.signIn(u.appPassword("phone", true))).str("accessJwt")
	assert.Equal(t, []any{tags}, u.prefs(app), "an app does not see who somebody is")
	assert.Equal(t, "InvalidRequest", put(app, birth).name())
	other2 := m{"$type": "app.bsky.actor.defs#adultContentPref", "enabled": true}
	b.ok(put(app, other2))
	assert.Equal(t, []any{other2, birth}, u.prefs(u.Access), "nor does it take that away")
	b.ok(put(u.Access))
	assert.Empty(t, u.prefs(u.Access))
}

func TestPreferenceRefusals(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	many := make([]any, maxPreferences+1)
	for i := range many {
		many[i] = m{"$type": "app.bsky.x"}
	}
	for what, in := range map[string]any{
		"none": m{}, "null": m{"preferences": nil}, "text": m{"preferences": "x"}, "no type": m{"preferences": []any{m{}}},
		"no object": m{"preferences": []any{1}}, "another's": m{"preferences": []any{m{"$type": "com.example.pref"}}}, "many": m{"preferences": many},
		"long": m{"preferences": []any{m{"$type": "app.bsky.x", "x": strings.Repeat("x", maxPreferenceBytes)}}},
	} {
		assert.Equal(t, "InvalidRequest", b.post(u.Access, "app.bsky.actor.putPreferences", in).name(), what)
	}
	assert.Equal(t, "AuthMissing", b.get("", "app.bsky.actor.getPreferences").name())
}

// What a subject's type has no field for was looked at by nobody, and is not kept.
func TestReportOfAnAccountBringsNothingElse(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	subject := repoRef(u)
	subject["uri"], subject["cid"] = "javascript:"+strings.Repeat("x", 100_000)+"\x00", "\x00"
	a := b.ok(u.report("", subject))
	assert.NotContains(t, a.JSON["subject"], "uri")
	assert.Equal(t, 1, b.count(`select count(*) from report where uri is null and cid is null`))
}
