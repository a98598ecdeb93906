package ledger

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOneCreditFromTaskToBurn(t *testing.T) {
	t.Parallel()
	c := newCity(t)
	res := c.capacity()
	require.Equal(t, int64(800), res.num("capacityMonth"), "100 units at 8 credits")
	require.Equal(t, int64(1200), res.num("capEpoch"), "half of it, three months")

	entry := c.catalog(c.library, entryOptions{})
	task := c.task(c.library, entry, 2)
	resident := c.resident("ana")
	claim := resident.claim(task)
	c.status(claim, "claimed")
	proof := resident.proof(task, claim)
	c.status(proof, "accepted")
	token := c.claimToken(c.library, claim)
	ver := c.verify(c.library, task, token)
	minted := c.status(ver, "minted")
	require.Equal(t, int64(24), c.balance(resident))
	require.Nil(t, c.explain(claim).Body["seq"], "a claim on a task that is not public must not be joined to its mint")
	require.Equal(t, "claimed", c.explain(claim).str("status"))

	made := c.code(resident, 2, "k1", nil)
	require.Equal(t, 200, made.Status, "%v", made.Body)
	require.Equal(t, int64(16), made.num("price"))
	done := c.scan(c.till, made.str("code"), "confirm", 0)
	require.Equal(t, 200, done.Status, "%v", done.Body)
	require.Equal(t, "redeemed", done.str("status"))
	require.Equal(t, int64(8), c.balance(resident))

	res = c.capacity()
	require.Equal(t, int64(48), res.num("reserved"))
	require.Equal(t, int64(24), res.num("outstanding"))
	require.Equal(t, int64(24), res.num("minted"))
	require.Equal(t, int64(24), res.num("votes"))
	require.Equal(t, int64(16), res.num("burned"))
	require.Equal(t, int64(8), res.num("supply"))
	require.Equal(t, int64(1), res.num("claims"))
	require.Equal(t, int64(1), res.num("tasks"))

	receipt := c.call(nil, "getReceipt", "?seq="+receiptKey(minted.num("seq")), nil)
	require.Equal(t, 200, receipt.Status, "%v", receipt.Body)
	list := c.call(nil, "listReceipts", "", nil)
	require.Len(t, list.Body["receipts"], 2)
}
