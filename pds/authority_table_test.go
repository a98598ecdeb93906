package pds

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
	"city-sync.org/citysync/lexicons"
	"city-sync.org/citysync/pds/scope"
)

// The kinds of authority with which a request may come.
const (
	asNobody        = "nobody"
	asSession       = "session"       // the account's password
	asAppPassword   = "app-password"  // one made for an app
	asOAuth         = "oauth"         // an app that was granted the scope atproto alone
	asActor         = "actor"         // an app that one who acts for the account let in, with all that a role can give
	asService       = "service"       // a service token of one who acts for the account
	asRefresh       = "refresh"       // a refresh token
	asDeactivated   = "deactivated"   // the session of an account that rests
	asSuspended     = "suspended"     // of one that was suspended
	asTakendown     = "takendown"     // of one that was taken down
	asDeleted       = "deleted"       // of one that is gone
	asReader        = "reader"        // an operator
	asModerator     = "moderator"     //
	asAdministrator = "administrator" //
)

var allKinds = []string{
	asNobody, asSession, asAppPassword, asOAuth, asActor, asService, asRefresh, asDeactivated, asSuspended, asTakendown, asDeleted,
	asReader, asModerator, asAdministrator,
}

// mayCallTable is who gets past the question of authority, for each method. "all" is everybody, a minus takes one out.
var mayCallTable = map[string]string{
	"app.bsky.actor.getPreferences":                     "session app-password deactivated suspended",
	"app.bsky.actor.putPreferences":                     "session app-password deactivated suspended",
	"com.atproto.admin.deleteAccount":                   "administrator",
	"com.atproto.admin.disableInviteCodes":              "moderator administrator",
	"com.atproto.admin.getAccountInfo":                  "reader moderator administrator",
	"com.atproto.admin.getAccountInfos":                 "reader moderator administrator",
	"com.atproto.admin.getInviteCodes":                  "reader moderator administrator",
	"com.atproto.admin.getSubjectStatus":                "reader moderator administrator",
	"com.atproto.admin.searchAccounts":                  "reader moderator administrator",
	"com.atproto.admin.sendEmail":                       "moderator administrator",
	"com.atproto.admin.updateAccountEmail":              "administrator",
	"com.atproto.admin.updateAccountHandle":             "administrator",
	"com.atproto.admin.updateAccountPassword":           "administrator",
	"com.atproto.admin.updateSubjectStatus":             "moderator administrator",
	"com.atproto.identity.getRecommendedDidCredentials": "session app-password oauth actor deactivated suspended takendown",
	"com.atproto.identity.requestPlcOperationSignature": "session deactivated suspended takendown",
	"com.atproto.identity.resolveHandle":                "all",
	"com.atproto.identity.signPlcOperation":             "session deactivated suspended takendown",
	"com.atproto.identity.submitPlcOperation":           "session deactivated suspended",
	"com.atproto.identity.updateHandle":                 "session deactivated",
	"com.atproto.moderation.createReport":               "session app-password deactivated suspended",
	"com.atproto.repo.applyWrites":                      "session app-password actor service",
	"com.atproto.repo.createRecord":                     "session app-password actor service",
	"com.atproto.repo.deleteRecord":                     "session app-password actor service",
	"com.atproto.repo.describeRepo":                     "all -deactivated -suspended -takendown -deleted",
	"com.atproto.repo.getRecord":                        "all -deactivated -suspended -takendown -deleted",
	"com.atproto.repo.importRepo":                       "session deactivated suspended",
	"com.atproto.repo.listMissingBlobs":                 "session app-password oauth actor deactivated suspended",
	"com.atproto.repo.listRecords":                      "all -deactivated -suspended -takendown -deleted",
	"com.atproto.repo.putRecord":                        "session app-password actor service",
	"com.atproto.repo.uploadBlob":                       "session app-password actor service deactivated",
	"com.atproto.server.activateAccount":                "session deactivated",
	"com.atproto.server.checkAccountStatus":             "session app-password oauth actor deactivated suspended takendown",
	"com.atproto.server.confirmEmail":                   "session deactivated suspended",
	"com.atproto.server.createAccount":                  "all",
	"com.atproto.server.createAppPassword":              "session deactivated suspended",
	"com.atproto.server.createInviteCode":               "moderator administrator",
	"com.atproto.server.createInviteCodes":              "moderator administrator",
	"com.atproto.server.createSession":                  "all -takendown -deleted",
	"com.atproto.server.deactivateAccount":              "session deactivated suspended takendown",
	"com.atproto.server.deleteAccount":                  "all",
	"com.atproto.server.deleteSession":                  "refresh",
	"com.atproto.server.describeServer":                 "all",
	"com.atproto.server.getAccountInviteCodes":          "session deactivated suspended",
	"com.atproto.server.getServiceAuth":                 "session app-password actor service",
	"com.atproto.server.getSession":                     "session app-password oauth actor deactivated suspended takendown",
	"com.atproto.server.listAppPasswords":               "session deactivated suspended",
	"com.atproto.server.refreshSession":                 "refresh",
	"com.atproto.server.requestAccountDelete":           "session deactivated suspended takendown",
	"com.atproto.server.requestEmailConfirmation":       "session deactivated suspended",
	"com.atproto.server.requestEmailUpdate":             "session deactivated suspended",
	"com.atproto.server.requestPasswordReset":           "all",
	"com.atproto.server.resetPassword":                  "all",
	"com.atproto.server.revokeAppPassword":              "session deactivated suspended",
	"com.atproto.server.updateEmail":                    "session deactivated suspended",
	"com.atproto.sync.getBlob":                          "all -deleted",
	"com.atproto.sync.getBlocks":                        "all -takendown -deleted",
	"com.atproto.sync.getLatestCommit":                  "all -takendown -deleted",
	"com.atproto.sync.getRecord":                        "all -takendown -deleted",
	"com.atproto.sync.getRepo":                          "all -deleted",
	"com.atproto.sync.getRepoStatus":                    "all -deleted",
	"com.atproto.sync.listBlobs":                        "all -deleted",
	"com.atproto.sync.listRepos":                        "all",
	"com.atproto.sync.listReposByCollection":            "all",
	"com.atproto.temp.checkHandleAvailability":          "all",
	"com.atproto.temp.revokeAccountCredentials":         "moderator administrator",
	"org.city-sync.pds.acceptController":                "session service deactivated suspended",
	"org.city-sync.pds.addController":                   "session deactivated suspended",
	"org.city-sync.pds.listActs":                        "session deactivated suspended",
	"org.city-sync.pds.listControlled":                  "session service deactivated suspended",
	"org.city-sync.pds.listControllers":                 "session deactivated suspended",
	"org.city-sync.pds.removeController":                "session service deactivated suspended",
	"org.city-sync.pds.updateSigningKey":                "session",
}

// inputs are what a method is called with, so that no answer comes before the question of authority, and nothing is changed after it.
var inputs = map[string]m{
	"com.atproto.admin.updateAccountEmail":      {"account": "VICTIM", "email": "new@example.org"},
	"com.atproto.admin.updateAccountHandle":     {"did": "VICTIM", "handle": "!"},
	"com.atproto.admin.updateAccountPassword":   {"did": "VICTIM", "password": "another good password"},
	"com.atproto.admin.sendEmail":               {"recipientDid": "VICTIM", "content": "x", "senderDid": "VICTIM"},
	"com.atproto.admin.deleteAccount":           {"did": "OTHER"},
	"com.atproto.admin.updateSubjectStatus":     {"subject": m{"$type": subjectRepo, "did": "VICTIM"}},
	"com.atproto.temp.revokeAccountCredentials": {"account": "VICTIM"},
	"com.atproto.server.createSession":          {"identifier": "SELF", "password": password},
	"com.atproto.server.deleteAccount":          {"did": "!"},
	"com.atproto.server.deactivateAccount":      {"deleteAfter": "!"},
	"com.atproto.server.createAccount":          {"handle": "!"},
	lexicons.PdsRemoveController:                {"account": "!"},
	lexicons.PdsAcceptController:                {"account": "!"},
}

// refusesAuthority tells an answer that says "not you" from every other.
func refusesAuthority(a answer) bool {
	return a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden ||
		slices.Contains([]string{"ExpiredToken", "RepoDeactivated", "RepoSuspended", "RepoTakendown", "RepoNotFound"}, a.name())
}

// bearer is a way in: the account that it is about, and what the request carries.
type bearer struct {
	self      syntax.DID
	authority func(nsid string) string // of the header Authorization
}

// bearers makes one of each kind.
func (b *bed) bearers() map[string]bearer {
	b.t.Helper()
	s, t := b.server.Load(), b.t
	u := b.account("plain")
	of := func(u *user, token string) bearer {
		return bearer{u.DID, func(string) string { return "Bearer " + token }}
	}
	out := map[string]bearer{asNobody: {u.DID, func(string) string { return "" }}, asSession: of(u, u.Access)}
	out[asAppPassword] = of(u, b.ok(u.signIn(u.appPassword("app", false))).str("accessJwt"))
	out[asRefresh] = bearer{u.DID, func(string) string { return "Bearer " + b.ok(u.signIn(password)).str("refreshJwt") }}
	for _, status := range []string{asDeactivated, asSuspended, asTakendown} {
		closed := b.account(status)
		out[status] = bearer{closed.DID, func(string) string {
			b.setStatus(closed, status)
			return "Bearer " + closed.Access
		}}
	}
	o := b.organization(scope.RoleCustom, "repo:* blob:*/* rpc:org.city-sync.ledger.listClaims?aud=*").accepted()
	o.app.scope = "atproto repo:* blob:*/* rpc:org.city-sync.ledger.listClaims?aud=* account:email?action=manage account:repo?action=manage identity:*"
	b.letIn(map[string]*app{"alone": {user: u, actor: u.DID, scope: "atproto"}, "actor": o.app})
	out[asOAuth] = bearer{u.DID, func(string) string { return "DPoP alone" }}
	out[asActor] = bearer{o.DID, func(string) string { return "DPoP actor" }}
	acc, err := s.findAccount(t.Context(), o.person.DID.String())
	require.NoError(t, err)
	key, err := s.signingKey(acc)
	require.NoError(t, err)
	out[asService] = bearer{o.DID, func(nsid string) string {
		token, err := xrpc.SignServiceToken(key, acc.DID.String(), b.cfg.ServiceDID.String(), nsid, b.clock.Now(), time.Minute)
		require.NoError(t, err)
		return "Bearer " + token
	}}
	for name, role := range map[string]Role{asReader: RoleReader, asModerator: RoleModerator, asAdministrator: RoleAdministrator} {
		op := b.named("op-"+name, role)
		req, err := http.NewRequest(http.MethodGet, b.url, nil)
		require.NoError(t, err)
		req.SetBasicAuth(op.name, op.token)
		out[name] = bearer{u.DID, func(string) string { return req.Header.Get("Authorization") }}
	}
	gone := b.account("gone")
	require.NoError(t, s.delete(t.Context(), gone.DID))
	out[asDeleted] = of(gone, gone.Access)
	return out
}

func (b *bed) tried(nsid string, who bearer, victim, other syntax.DID) answer {
	b.t.Helper()
	fill := strings.NewReplacer("SELF", who.self.String(), "VICTIM", victim.String(), "OTHER", other.String())
	q := url.Values{
		"repo": {who.self.String()}, "did": {who.self.String()}, "dids": {who.self.String()}, "handle": {"plain.test"}, "collection": {note}, "rkey": {"a"},
		"cid": {someCID}, "cids": {someCID}, "aud": {"did:web:ledger.example.com#citysync_ledger"}, "lxm": {lexicons.LedgerListClaims},
	}
	in, ok := inputs[nsid]
	if !ok {
		in = m{"repo": who.self, "collection": note, "rkey": "a", "record": m{}, "writes": []m{{"$type": applyWritesNSID + "#create", "collection": note, "rkey": "b", "value": m{}}}, "name": "", "email": "!", "handle": "!", "password": ""}
	}
	raw, err := json.Marshal(in)
	require.NoError(b.t, err)
	send := func(method string) answer {
		req, err := http.NewRequest(method, b.url+"/xrpc/"+nsid+"?"+q.Encode(), bytes.NewReader([]byte(fill.Replace(string(raw)))))
		require.NoError(b.t, err)
		req.Header.Set("Content-Type", "application/json")
		if auth := who.authority(nsid); auth != "" {
			req.Header.Set("Authorization", auth)
		}
		return b.do(req)
	}
	a := send(http.MethodPost)
	if a.Status == http.StatusMethodNotAllowed {
		a = send(http.MethodGet)
	}
	return a
}

// Who may call what stands here as data: a method that is new fails until somebody has said whose it is.
func TestEveryMethodIsForThoseOnlyWhoAreNamed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	methods, _ := b.server.Load().handler.(*xrpc.Mux).Served()
	b.withMail()
	ways, victim, other := b.bearers(), b.account("victim").DID, b.account("other").DID
	for _, nsid := range methods {
		var may []string
		for _, kind := range allKinds {
			a := b.tried(nsid, ways[kind], victim, other)
			require.Less(t, a.Status, 500, "%s as %s: %s", nsid, kind, a.Raw)
			if !refusesAuthority(a) {
				may = append(may, kind)
			}
		}
		assert.Equal(t, named(mayCallTable[nsid]), may, nsid)
	}
	for nsid := range mayCallTable {
		assert.Contains(t, methods, nsid, "is served no more")
	}
}

func named(entry string) []string {
	var out []string
	for word := range strings.FieldsSeq(entry) {
		switch {
		case word == "all":
			out = slices.Clone(allKinds)
		case word[0] == '-':
			out = slices.DeleteFunc(out, func(k string) bool { return k == word[1:] })
		default:
			out = append(out, word)
		}
	}
	return out
}
