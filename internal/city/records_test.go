package city_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/bluesky-social/indigo/atproto/syntax"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/internal/city"
	"city-sync.org/citysync/lexicons"
)

type marshaler interface{ MarshalCBOR(io.Writer) error }

const (
	someDID  = syntax.DID("did:plc:ewvi7nxzyoun6zhxrhs64oiz")
	otherDID = syntax.DID("did:plc:44ybard66vv44zksje25o7dz")
)

func TestEveryFoundingRecordIsValid(t *testing.T) {
	t.Parallel()
	ref := &city.Ref{Uri: "at://" + someDID.String() + "/org.city-sync.gov.decision/founding",
		Cid: "bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a"}
	founded := at(t, "2026-11-20T10:00:00Z")
	for _, name := range city.Embedded() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := load(t, name)
			check := func(nsid, rkey string, rec marshaler) {
				t.Helper()
				var b bytes.Buffer
				require.NoError(t, rec.MarshalCBOR(&b))
				assert.NoError(t, lexicons.Validate(nsid, rkey, b.Bytes()))
			}
			key := city.Key(founded, 7)
			check(lexicons.ActorCity, "self", c.CityRecord(city.Services{Ledger: someDID, AppView: otherDID, LogURL: "http://localhost:2582",
				LogVKey: someDID.String() + "+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"}, syntax.ATURI("at://"+someDID.String()+"/"+lexicons.GovParameterSet+"/"+key)))
			check(lexicons.CatalogRuleSet, key, c.RuleSet())
			check(lexicons.GovDecision, city.FoundingKey, c.FoundingDecision())
			check(lexicons.GovParameterSet, key, c.ParameterSet(ref))
			for _, title := range c.CredentialTypes() {
				check(lexicons.RegistryCredentialType, key, c.CredentialType(title))
			}
			for _, o := range c.Organizations {
				check(lexicons.RegistryAccreditation, someDID.String(), c.Accreditation(o, someDID, []syntax.DID{otherDID}, ref))
				check(lexicons.ActorDeclaration, "self", o.Declaration(otherDID, founded))
				check(lexicons.ActorOrganization, "self", o.Profile(otherDID, c.Langs, founded))
			}
			credentials := map[string]syntax.ATURI{}
			for _, title := range c.CredentialTypes() {
				credentials[title] = syntax.ATURI("at://" + someDID.String() + "/" + lexicons.RegistryCredentialType + "/" + key)
			}
			for _, e := range c.Catalog {
				draft := c.Draft(e, ref, credentials)
				check(lexicons.CatalogEntry, key, draft)
				check(lexicons.CatalogEntry, key, city.Approve(draft, ref, ref))
				assert.Nil(t, draft.Origin, "approving must not change the draft")
				assert.Len(t, draft.RequiredCredentials, len(e.Credentials))
			}
			for _, o := range c.Offerings {
				check(lexicons.OfferOffering, key, c.OfferingRecord(o))
			}
		})
	}
}

func TestKeysOfOneFoundingRepeatAndAscend(t *testing.T) {
	t.Parallel()
	founded := time.Date(2026, 11, 20, 10, 0, 0, 123456000, time.UTC)
	assert.Equal(t, city.Key(founded, 3), city.Key(founded, 3))
	assert.Less(t, city.Key(founded, 3), city.Key(founded, 4))
	_, err := syntax.ParseTID(city.Key(founded, 3))
	assert.NoError(t, err)
}

func TestEveryIssuerHasAnotherOrganizationThatVerifies(t *testing.T) {
	t.Parallel()
	c := load(t, "berkeley")
	assert.Equal(t, map[string]string{"LIB": "PRK", "PRK": "FOO", "FOO": "PRE", "PRE": "SEN", "SEN": "LIB"}, c.Verifiers())
	alone, err := city.Load(folder(small()))
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"LIB": "BUS"}, alone.Verifiers())
	bus := alone.Accreditation(alone.Organizations[1], someDID, nil, nil)
	assert.Equal(t, []string{lexicons.RoleRedeemer, lexicons.RoleVerifier}, bus.Roles)
}
