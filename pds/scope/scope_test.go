package scope

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/lexicon"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
)

const (
	service = "did:web:api.example.com#svc_appview"
	escaped = "did:web:api.example.com%23svc_appview"
)

// exampleSet holds one entry of every sort that a set may hold or must not.
var exampleSet = lexicons.PermissionSet{
	NSID:  "com.example.calendar.authFull",
	Title: map[string]string{"en": "Calendar"},
	Permissions: []lexicon.SchemaPermission{
		{Resource: "repo", Collection: []string{"com.example.calendar.event"}, Action: []string{"delete", "create"}},
		{Resource: "repo", Collection: []string{"com.example.calendar.rsvp", "com.example.other.thing"}},
		{Resource: "repo", Collection: []string{"*"}},
		{Resource: "rpc", LXM: []string{"com.example.calendar.getEvents"}, InheritAud: true},
		{Resource: "rpc", LXM: []string{"com.example.calendar.findEvents"}, Audience: "*"},
		{Resource: "rpc", LXM: []string{"com.example.calendar.stealEvents"}, Audience: service},
		{Resource: "rpc", LXM: []string{"*"}, InheritAud: true},
		{Resource: "rpc", LXM: []string{"com.example.calendar.both"}, InheritAud: true, Audience: "*"},
		{Resource: "rpc", LXM: []string{"com.example.calendarother.getEvents"}, Audience: "*"},
		{Resource: "blob"}, {Resource: "account"}, {Resource: "identity"},
	},
}

func examples(nsid string) (lexicons.PermissionSet, bool) {
	return exampleSet, nsid == exampleSet.NSID
}

// anySet knows every set, all of them empty.
func anySet(nsid string) (lexicons.PermissionSet, bool) {
	return lexicons.PermissionSet{NSID: nsid}, true
}

func parse(t testing.TB, s string) *Set {
	t.Helper()
	set, err := Parse(s, examples)
	require.NoError(t, err)
	return set
}

func vectors(t *testing.T, name string) []string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/bluesky-social/indigo").Output()
	require.NoError(t, err)
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "atproto", "auth", "testdata", name))
	require.NoError(t, err)
	defer f.Close()
	var out []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := lines.Text(); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	require.NotEmpty(t, out)
	return out
}

func TestTheNetworksVectorsAreRead(t *testing.T) {
	t.Parallel()
	for _, word := range vectors(t, "permission_scopes_valid.txt") {
		_, err := Parse(word, anySet)
		assert.NoError(t, err, word)
	}
	// The vectors are older than this part of an account, which the reference server grants.
	newer := []string{"account:status", "account:status?action=manage"}
	for _, word := range vectors(t, "permission_scopes_invalid.txt") {
		_, err := Parse(word, anySet)
		assert.Equal(t, slices.Contains(newer, word), err == nil, word)
	}
}

func TestWordsHaveOneForm(t *testing.T) {
	t.Parallel()
	for word, want := range map[string]string{
		"repo?collection=com.example.foo":                                               "repo:com.example.foo",
		"repo:com.example.foo?action=delete&action=create&action=update":                "repo:com.example.foo",
		"repo:com.example.foo?action=delete&action=create":                              "repo:com.example.foo?action=create&action=delete",
		"repo?collection=com.example.foo&collection=com.example.bar":                    "repo?collection=com.example.bar&collection=com.example.foo",
		"repo?collection=com.example.foo&collection=*":                                  "repo:*",
		"rpc:com.example.foo?aud=" + service:                                            "rpc:com.example.foo?aud=" + escaped,
		"rpc?aud=*&lxm=com.example.foo&lxm=com.example.bar":                             "rpc?lxm=com.example.bar&lxm=com.example.foo&aud=*",
		"blob?accept=image/png&accept=image/*":                                          "blob:image/*",
		"blob?accept=video/*&accept=text/html":                                          "blob?accept=text/html&accept=video/*",
		"blob:image/svg+xml":                                                            "blob:image/svg+xml",
		"blob?accept=image/svg%2Bxml&accept=text/html":                                  "blob?accept=image/svg%2Bxml&accept=text/html",
		"account:email?action=read":                                                     "account:email",
		"account?attr=email&action=manage":                                              "account:email?action=manage",
		"identity:*?":                                                                   "identity:*",
		"include?aud=did:web:api.example.com%23svc_appview&nsid=com.example.app.authMe": "include:com.example.app.authMe?aud=" + escaped,
		"repo:com.b.c  repo:com.a.c repo:com.b.c atproto":                               "atproto repo:com.a.c repo:com.b.c",
	} {
		set, err := Parse(word, anySet)
		require.NoError(t, err, word)
		assert.Equal(t, want, set.String(), word)
	}
}

func TestRefusalsNameTheWord(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]string{
		"atproto repo:nothing":                               `"repo:nothing"`,
		"openid":                                             `"openid"`,
		"transition:everything":                              `"transition:everything"`,
		"include:com.example.other.authFull":                 "com.example.other.authFull is not known here",
		"rpc:*?aud=*":                                        "every method of every service",
		"rpc?lxm=*&lxm=com.example.foo&aud=*":                "every method of every service",
		"repo:com.example.foo?collection=com.example.foo":    "given twice",
		"repo:com.example.foo?aud=*":                         `no parameter "aud"`,
		"repo:com.example.%zz":                               "percent sign",
		"blob:image/png;charset=x":                           "MIME",
		strings.Repeat("a", maxLength+1):                     "longer than",
		strings.Repeat("atproto ", maxTerms+1):               "more than",
		"rpc:com.example.foo?aud=did:key:z6Mk%23x":           "aud",
		"identity:handle?attr=handle":                        "given twice",
		"rpc:com.example.foo?aud=did:web:a.example%23a%20b":  "aud",
		"include:com.example.calendar.authFull?collection=*": "no parameter",
	} {
		_, err := Parse(s, examples)
		assert.ErrorContains(t, err, want, "%.80s", s)
		var bad *InvalidError
		assert.ErrorAs(t, err, &bad)
	}
}

func TestNothingIsAllowedThatIsNotNamed(t *testing.T) {
	t.Parallel()
	for s, want := range map[string][]string{
		"":                                   nil,
		"atproto":                            nil,
		"repo:com.example.foo?action=create": {"create foo"},
		"repo:com.example.foo?action=create repo:com.example.bar": {"create foo", "update bar"},
		"repo:*?action=update":                   {"update bar"},
		"rpc:com.example.foo?aud=" + escaped:     {"call foo"},
		"rpc:com.example.foo?aud=*":              {"call foo", "call foo elsewhere"},
		"rpc:*?aud=" + escaped:                   {"call foo", "call chat", "call all"},
		"blob:image/*":                           {"png"},
		"blob:image/png":                         {"png"},
		"blob:*/*":                               {"png", "pdf"},
		"account:email":                          {"read email"},
		"account:email?action=manage":            {"read email", "manage email"},
		"account:repo?action=manage":             {"manage repo"},
		"identity:handle":                        {"handle"},
		"identity:*":                             {"handle", "identity"},
		TransitionGeneric:                        {"create foo", "update bar", "call foo", "call foo elsewhere", "png", "pdf"},
		TransitionGeneric + " " + TransitionChat: {"create foo", "update bar", "call foo", "call foo elsewhere", "call chat", "call all", "png", "pdf"},
		TransitionChat:                           {"call chat"},
		TransitionEmail:                          {"read email"},
	} {
		set := parse(t, s)
		got := map[string]bool{
			"create foo":         set.Repo("com.example.foo", Create),
			"update bar":         set.Repo("com.example.bar", Update),
			"call foo":           set.RPC("com.example.foo", service),
			"call foo elsewhere": set.RPC("com.example.foo", "did:web:other.example.com#svc"),
			"call chat":          set.RPC("chat.bsky.convo.getMessages", service),
			"call all":           set.RPC("*", service),
			"png":                set.Blob("image/PNG"),
			"pdf":                set.Blob("application/pdf"),
			"read email":         set.Account("email", Read),
			"manage email":       set.Account("email", Manage),
			"manage repo":        set.Account("repo", Manage),
			"handle":             set.Identity("handle"),
			"identity":           set.Identity("*"),
		}
		for what, allowed := range got {
			assert.Equal(t, slices.Contains(want, what), allowed, "%q: %s", s, what)
		}
	}
	assert.False(t, parse(t, "blob:*/*").Blob("image/*"), "a pattern is no file's type")
	assert.False(t, parse(t, "blob:*/*").Blob("nothing"))
}

func TestPermissionSetGivesWhatItsNamespaceHolds(t *testing.T) { // S4
	t.Parallel()
	texts := func(s string) []string {
		var out []string
		for _, g := range parse(t, s).Grants() {
			require.Equal(t, "Calendar", g.From.Set.Title["en"])
			out = append(out, g.Permission.String())
		}
		return out
	}
	assert.Equal(t, []string{
		"repo:com.example.calendar.event?action=create&action=delete",
		"rpc:com.example.calendar.getEvents?aud=" + escaped,
		"rpc:com.example.calendar.findEvents?aud=*",
	}, texts("include:com.example.calendar.authFull?aud="+escaped))
	assert.Equal(t, []string{
		"repo:com.example.calendar.event?action=create&action=delete",
		"rpc:com.example.calendar.findEvents?aud=*",
	}, texts("include:com.example.calendar.authFull"), "without aud nothing is inherited")
}

func TestWithinKeepsNamesOfWhatIsWhole(t *testing.T) {
	t.Parallel()
	const set = "include:com.example.calendar.authFull"
	for _, row := range [][3]string{
		{"atproto repo:com.a.b", "repo:com.a.b", "atproto repo:com.a.b"},
		{"atproto " + set, set, "atproto " + set},
		{"atproto " + set, "repo:*", "atproto repo:com.example.calendar.event?action=create&action=delete"},
		{"repo:*", set, "repo:com.example.calendar.event?action=create&action=delete"},
		{"repo:com.a.b?action=create&action=update", "repo:*?action=update&action=delete", "repo:com.a.b?action=update"},
		{"repo:com.a.b?action=create", "repo:com.a.b?action=update", ""},
		{"repo:com.a.b", "rpc:com.a.b?aud=*", ""},
		{"rpc?lxm=com.a.b&lxm=com.a.c&aud=*", "rpc:*?aud=" + escaped, "rpc?lxm=com.a.b&lxm=com.a.c&aud=" + escaped},
		{"rpc:com.a.b?aud=" + escaped, "rpc:com.a.b?aud=did:web:b.example%23x", ""},
		{TransitionGeneric, "repo:com.a.b rpc?lxm=com.a.b&lxm=chat.bsky.b&aud=* blob:image/* account:email", "blob:image/* repo:com.a.b rpc:com.a.b?aud=*"},
		{TransitionGeneric, TransitionGeneric, TransitionGeneric},
		{"blob?accept=image/*&accept=text/plain", "blob?accept=image/png&accept=text/*", "blob?accept=image/png&accept=text/plain"},
		{"account:email?action=manage", "account:email", "account:email"},
		{"identity:*", "identity:handle", "identity:handle"},
	} {
		assert.Equal(t, row[2], parse(t, row[0]).Within(parse(t, row[1])).String(), "%s within %s", row[0], row[1])
	}
}
