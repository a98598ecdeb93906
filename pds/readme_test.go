package pds

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/xrpc"
)

// The protocol's methods, as the reference's lexicons name them. A method that is not here is nobody's but an application's.
var protocolMethods = map[string]string{
	"server": `activateAccount checkAccountStatus confirmEmail createAccount createAppPassword createInviteCode createInviteCodes createSession
		deactivateAccount deleteAccount deleteSession describeServer getAccountInviteCodes getServiceAuth getSession listAppPasswords refreshSession
		requestAccountDelete requestEmailConfirmation requestEmailUpdate requestPasswordReset reserveSigningKey resetPassword revokeAppPassword updateEmail`,
	"repo": `applyWrites createRecord deleteRecord describeRepo getRecord importRepo listMissingBlobs listRecords putRecord uploadBlob`,
	"sync": `getBlob getBlocks getCheckout getHead getHostStatus getLatestCommit getRecord getRepo getRepoStatus listBlobs listHosts listRepos
		listReposByCollection notifyOfUpdate requestCrawl subscribeRepos`,
	"identity": `getRecommendedDidCredentials refreshIdentity requestPlcOperationSignature resolveDid resolveHandle resolveIdentity signPlcOperation
		submitPlcOperation updateHandle`,
	"admin": `deleteAccount disableAccountInvites disableInviteCodes enableAccountInvites getAccountInfo getAccountInfos getInviteCodes getSubjectStatus
		searchAccounts sendEmail updateAccountEmail updateAccountHandle updateAccountPassword updateAccountSigningKey updateSubjectStatus`,
	"label":      `queryLabels subscribeLabels`,
	"lexicon":    `resolveLexicon`,
	"moderation": `createReport`,
	"temp":       `addReservedHandle checkHandleAvailability checkSignupQueue dereferenceScope fetchLabels requestPhoneVerification revokeAccountCredentials`,
}

var tableRow = regexp.MustCompile("(?m)^\\| (`[^|]+`) \\| (yes|no) \\| ?([^|]*)\\|$")

// readmeRows is what the README says is served, by method or address. One row may name several addresses.
func readmeRows(t *testing.T) map[string]bool {
	t.Helper()
	raw, err := os.ReadFile("README.md")
	require.NoError(t, err)
	rows := map[string]bool{}
	for _, row := range tableRow.FindAllStringSubmatch(string(raw), -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			name = strings.Trim(name, "`")
			assert.NotContains(t, rows, name, "stands twice")
			rows[name] = row[2] == "yes"
			assert.False(t, row[2] == "no" && strings.TrimSpace(row[3]) == "", "%s: the table says why it is not served", name)
		}
	}
	return rows
}

func TestReadmeTableIsWhatIsServed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	methods, patterns := b.server.Load().handler.(*xrpc.Mux).Served()
	rows := readmeRows(t)
	served := map[string]bool{}
	for _, m := range methods {
		served[m] = true
	}
	for _, p := range patterns {
		_, path, ok := strings.Cut(p, " ")
		if !ok {
			path = p
		}
		path = strings.TrimSuffix(path, "{$}")
		served[path] = true
		if nsid, ok := strings.CutPrefix(path, "/xrpc/com."); ok { // a method that is a WebSocket
			served["com."+nsid] = true
		}
	}
	for name := range served {
		assert.True(t, rows[name], "%s is served, and README.md does not say so", name)
	}
	for name, says := range rows {
		if says {
			assert.True(t, served[name], "README.md says that %s is served", name)
		}
	}
	for group, names := range protocolMethods {
		for name := range strings.FieldsSeq(names) {
			assert.Contains(t, rows, "com.atproto."+group+"."+name, "a method of the protocol that the table leaves out")
		}
	}
}

// Every method of the protocol that changes an account is kept from other services.
func TestProtectedMethodsAreMethods(t *testing.T) {
	t.Parallel()
	rows := readmeRows(t)
	for _, nsid := range protected {
		_, err := syntax.ParseNSID(nsid)
		require.NoError(t, err)
		assert.Contains(t, rows, nsid)
	}
}

// A test that the README names is there.
func TestReadmeNamesTestsThatAreThere(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*_test.go")
	require.NoError(t, err)
	var there []string
	for _, f := range files {
		raw, err := os.ReadFile(f)
		require.NoError(t, err)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(raw), -1) {
			there = append(there, m[1])
		}
	}
	raw, err := os.ReadFile("README.md")
	require.NoError(t, err)
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(string(raw), -1)
	require.NotEmpty(t, named)
	for _, m := range named {
		assert.True(t, slices.Contains(there, m[1]), m[1])
	}
}

func TestCertificatesAreForOurNamesOnly(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	u := b.account("user")
	check := func(domain string) int {
		return b.page("/tls-check?domain="+domain, "").Status
	}
	assert.Equal(t, 200, check(b.server.Load().host))
	assert.Equal(t, 200, check("User.test"))
	for _, other := range []string{"nobody.test", u.DID.String(), "", "a@b.c", "x%00y"} {
		assert.GreaterOrEqual(t, check(other), 400, other)
		assert.Less(t, check(other), 500, other)
	}
	b.setStatus(u, "deactivated")
	assert.Equal(t, 404, check("user.test"))
}
