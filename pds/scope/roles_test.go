package scope

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"city-sync.org/citysync/lexicons"
)

func TestRolesAreCutOutOfWhatAnOrganizationDoes(t *testing.T) {
	t.Parallel()
	of := func(name string) *Set {
		s, err := RoleOf(name, "", nil)
		require.NoError(t, err)
		again, err := Parse(s.String(), nil)
		require.NoError(t, err)
		require.Equal(t, got(s), got(again), "a role can be said as a scope")
		return s
	}
	assert.Equal(t, []string{
		"call org.city-sync.ledger.activate at *", "call org.city-sync.ledger.endCard at *",
		"call org.city-sync.ledger.issueCard at *", "call org.city-sync.ledger.listClaims at *",
		"call org.city-sync.work.getEvidence at *", "call org.city-sync.work.listEvidence at *",
		"create org.city-sync.work.response", "create org.city-sync.work.review", "create org.city-sync.work.task",
		"create org.city-sync.work.taskStatus", "create org.city-sync.work.verification",
	}, slices.DeleteFunc(got(of(RoleCoordinator)), func(s string) bool { return s[:7] == "update " || s[:7] == "delete " }))
	redeemer := of(RoleRedeemer)
	assert.True(t, redeemer.Repo(lexicons.OfferOffering, Update))
	assert.True(t, redeemer.RPC(lexicons.LedgerBindTill, service))
	assert.False(t, redeemer.Repo(lexicons.WorkTask, Create))
	assert.False(t, redeemer.Blob("image/png"))
	editor := of(RoleEditor)
	all, err := Parse("include:"+lexicons.AuthOrganization, lexicons.PermissionSetOf)
	require.NoError(t, err)
	assert.Equal(t, all.String(), all.Within(editor).String(), "an editor does all that an organization does")
	assert.True(t, editor.Blob("image/png"))
	assert.False(t, editor.Blob("video/mp4"))
	for _, name := range Roles() {
		assert.False(t, of(name).Account("email", Read))
		assert.False(t, of(name).Identity("handle"))
		assert.False(t, of(name).Repo("app.bsky.feed.post", Create))
	}
}

func TestCustomRoleNeverGivesTheAccountAway(t *testing.T) {
	t.Parallel()
	s, err := RoleOf(RoleCustom, "repo:org.city-sync.work.task include:org.city-sync.authCity", lexicons.PermissionSetOf)
	require.NoError(t, err)
	assert.True(t, s.Repo(lexicons.WorkTask, Create))
	assert.True(t, s.RPC(lexicons.LedgerPause, service))
	for _, bad := range []string{
		"", "atproto", "atproto repo:org.city-sync.work.task", TransitionGeneric, TransitionEmail, TransitionChat,
		"account:email", "identity:handle", "repo:org.city-sync.work.task account:repo?action=manage", "repo:nothing",
	} {
		_, err := RoleOf(RoleCustom, bad, lexicons.PermissionSetOf)
		assert.Error(t, err, bad)
	}
	_, err = RoleOf(RoleEditor, "repo:*", nil)
	assert.Error(t, err)
	_, err = RoleOf("boss", "", nil)
	assert.ErrorContains(t, err, "not a role")
}
