package scope

import (
	"encoding/json"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bluesky-social/indigo/atproto/lexicon"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
)

// writers says who writes each record that counts. A record type that is not here, or not in
// the sets named, fails the test below.
var writers = map[string][]string{
	lexicons.ActorCity:              {lexicons.AuthCity},
	lexicons.ActorDeclaration:       {lexicons.AuthOrganization, lexicons.AuthResident},
	lexicons.ActorOrganization:      {lexicons.AuthOrganization},
	lexicons.CatalogEntry:           {lexicons.AuthCity, lexicons.AuthOrganization}, // the copy that counts, and the draft
	lexicons.CatalogEntryStatus:     {lexicons.AuthCity},
	lexicons.CatalogRuleSet:         {lexicons.AuthCity},
	lexicons.GovDecision:            {lexicons.AuthCity},
	lexicons.GovDispute:             {lexicons.AuthOrganization, lexicons.AuthResident},
	lexicons.GovParameterSet:        {lexicons.AuthCity},
	lexicons.GovResolution:          {lexicons.AuthCity},
	lexicons.LedgerCheckpoint:       {lexicons.AuthLedger},
	lexicons.LedgerCosignature:      {lexicons.AuthWitness},
	lexicons.LedgerEpochReport:      {lexicons.AuthLedger},
	lexicons.LedgerReceipt:          {lexicons.AuthLedger},
	lexicons.OfferOffering:          {lexicons.AuthOrganization},
	lexicons.OfferOfferingStatus:    {lexicons.AuthOrganization},
	lexicons.OfferRedemption:        {lexicons.AuthOrganization},
	lexicons.RegistryAccreditation:  {lexicons.AuthCity},
	lexicons.RegistryCredentialType: {lexicons.AuthCity},
	lexicons.WorkClaim:              {lexicons.AuthResident},
	lexicons.WorkProof:              {lexicons.AuthResident},
	lexicons.WorkResponse:           {lexicons.AuthOrganization},
	lexicons.WorkReview:             {lexicons.AuthOrganization, lexicons.AuthResident},
	lexicons.WorkTask:               {lexicons.AuthOrganization},
	lexicons.WorkTaskStatus:         {lexicons.AuthOrganization},
	lexicons.WorkVerification:       {lexicons.AuthOrganization},
}

// appView are the methods of the service that an include: names by its aud. All others with
// service auth are a ledger's, of which each city has its own.
var appView = []string{
	lexicons.WorkPutEvidence, lexicons.WorkGetEvidence, lexicons.WorkListEvidence, lexicons.WorkDeleteEvidence,
}

// callers reads off the description of a method who may call it. A method that asks for
// nobody's authority is either signed by a key of its own or open to all.
func callers(description string) []string {
	var out []string
	if !strings.Contains(description, "service auth") {
		return out
	}
	asked := description[strings.LastIndex(description[:strings.Index(description, "service auth")], ".")+1:]
	for set, who := range map[string]string{
		lexicons.AuthResident:     `resident|asker|its owner`,
		lexicons.AuthOrganization: `issuer|organization's|redeemer|delegates`,
		lexicons.AuthCity:         `city's`,
	} {
		if regexp.MustCompile(who).MatchString(asked) {
			out = append(out, set)
		}
	}
	return out
}

// wider are methods whose descriptions name fewer callers than need them.
var wider = map[string][]string{
	lexicons.LedgerActivate:   {lexicons.AuthOrganization, lexicons.AuthResident}, // the resident shows a token of the same method
	lexicons.WorkListEvidence: {lexicons.AuthOrganization, lexicons.AuthResident}, // an asker is a verifier or a resident
}

// described gives the description of every method of ours.
func described(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, nsid := range lexicons.Methods() {
		raw, err := fs.ReadFile(lexicons.Schemas, strings.ReplaceAll(nsid, ".", "/")+".json")
		require.NoError(t, err)
		var file struct {
			Defs struct {
				Main struct{ Description string }
			}
		}
		require.NoError(t, json.Unmarshal(raw, &file))
		out[nsid] = file.Defs.Main.Description
	}
	return out
}

// keyed are the methods that a key of its own signs, or the session of the account itself.
var keyed = regexp.MustCompile(`Signed by the (till|witness)|The signature is the authority|Needs the account's own session`)

// open are the methods that ask nobody who they are.
var open = []string{
	lexicons.ActorGetCity, lexicons.ActorGetProfile, lexicons.ActorListOrganizations,
	lexicons.AuditExplainRecord, lexicons.AuditGetFinality, lexicons.AuditListEpochReports, lexicons.AuditListTimeline,
	lexicons.CatalogGetEntry, lexicons.CatalogListEntries, lexicons.GovGetDispute, lexicons.GovListDisputes,
	lexicons.LedgerExplain, lexicons.LedgerGetCapacity, lexicons.LedgerGetCheckpoint, lexicons.LedgerGetConsistencyProof,
	lexicons.LedgerGetInclusionProof, lexicons.LedgerGetReceipt, lexicons.LedgerListReceipts,
	lexicons.OfferGetOfferings, lexicons.OfferQueryOfferings, lexicons.WorkGetTasks, lexicons.WorkQueryTasks,
}

// want is what each set must expand to, from the tables above.
func want(t *testing.T, set, aud string) []string {
	t.Helper()
	out := map[string]bool{}
	for nsid, sets := range writers {
		for _, a := range everyAction {
			if slices.Contains(sets, set) {
				out[string(a)+" "+nsid] = true
			}
		}
	}
	for nsid, text := range described(t) {
		sets, ok := wider[nsid]
		if !ok {
			sets = callers(text)
		}
		switch {
		case !slices.Contains(sets, set):
		case !slices.Contains(appView, nsid):
			out["call "+nsid+" at *"] = true
		case aud != "":
			out["call "+nsid+" at "+aud] = true
		}
	}
	return slices.Sorted(maps.Keys(out))
}

func got(s *Set) []string {
	out := map[string]bool{}
	for _, g := range s.Grants() {
		for _, c := range g.Collections {
			for _, a := range g.Actions {
				out[string(a)+" "+c] = true
			}
		}
		for _, m := range g.Methods {
			out["call "+m+" at "+g.Aud] = true
		}
	}
	return slices.Sorted(maps.Keys(out))
}

func TestEachPermissionSetGivesWhatItsHoldersNeed(t *testing.T) {
	t.Parallel()
	sets := lexicons.PermissionSets()
	require.Len(t, sets, 5)
	for _, nsid := range sets {
		with, err := Parse("include:"+nsid+"?aud="+escaped, lexicons.PermissionSetOf)
		require.NoError(t, err)
		assert.Equal(t, want(t, nsid, service), got(with), nsid)
		without, err := Parse("include:"+nsid, lexicons.PermissionSetOf)
		require.NoError(t, err)
		assert.Equal(t, want(t, nsid, ""), got(without), nsid)
		// Nothing of a set of ours is left out when it is taken apart.
		set, _ := lexicons.PermissionSetOf(nsid)
		assert.Len(t, with.Grants(), len(set.Permissions), nsid)
	}
}

func TestEveryRecordAndMethodHasItsPermissionSet(t *testing.T) {
	t.Parallel()
	assert.Equal(t, lexicons.Records(), slices.Sorted(maps.Keys(writers)), "say in this test who writes the record, and put it into the sets")
	for nsid, text := range described(t) {
		if len(callers(text)) == 0 && !slices.Contains(open, nsid) {
			assert.Regexp(t, keyed, text, "%s: its description must say whose service auth it needs, or why none", nsid)
		}
	}
}

func TestOneForeignNameWouldDropAnEntry(t *testing.T) {
	t.Parallel()
	set, ok := lexicons.PermissionSetOf(lexicons.AuthWitness)
	require.True(t, ok)
	broken := set
	broken.Permissions = []lexicon.SchemaPermission{{
		Resource: "repo", Collection: append(slices.Clone(set.Permissions[0].Collection), "community.lexicon.calendar.rsvp"),
	}}
	s, err := Parse("include:"+lexicons.AuthWitness, func(string) (lexicons.PermissionSet, bool) { return broken, true })
	require.NoError(t, err)
	assert.Empty(t, s.Grants())
}

func TestPermissionSetsSpeakBothLanguages(t *testing.T) {
	t.Parallel()
	for _, nsid := range lexicons.PermissionSets() {
		set, _ := lexicons.PermissionSetOf(nsid)
		for _, texts := range []map[string]string{set.Title, set.Detail} {
			assert.NotEmpty(t, texts["en"], nsid)
			assert.NotEqual(t, texts["en"], lexicons.In("es-MX", texts), nsid)
			assert.Equal(t, texts["en"], lexicons.In("fr", texts), nsid)
		}
	}
	_, ok := lexicons.PermissionSetOf("org.city-sync.authNobody")
	assert.False(t, ok)
}
