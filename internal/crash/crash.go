// Package crash names the places where a process may die and still has to be right
// afterwards: each durable step of the services has a point before, inside and after it.
//
// What holds:
//
//   - C1: in a normal build Point is empty and disappears; nothing can arm it.
//   - C2: built with the tag crash, a process reads the file that CRASH_FILE names at each
//     point. "label#n" in it kills the process by SIGKILL at the n-th time that it comes to
//     that point from then on. The file is removed first: the next process lives.
//   - C3: labels lists every point of the code, and each label stands at one place. A test
//     holds the list against the code.
package crash

import "slices"

// labels are service/step/place. A step's places stand in the order of its work.
var labels = []string{
	"pds/write/before-commit",
	"pds/write/after-commit",
	"pds/together/before-commit",
	"pds/together/after-commit",
	"pds/create/after-signup",
	"pds/create/after-plc",
	"pds/create/before-commit",
	"pds/create/after-commit",
	"pds/blob/received",
	"pds/blob/after-row",
	"pds/blob/after-file",
	"pds/arrive/after-commit",
	"pds/import/received",
	"pds/import/before-commit",
	"pds/import/after-commit",
	"pds/activate/before-commit",
	"pds/activate/after-commit",
	"pds/deactivate/after-commit",
	"pds/handle/taken",
	"pds/handle/declared",
	"pds/handle/told",
	"pds/key/noted",
	"pds/key/published",
	"pds/key/after-commit",
	"pds/controller/removed",
	"pds/quarantine/half",
	"pds/oauth/exchanged",
	"pds/oauth/refreshed",
	"pds/delete/after-files",
	"pds/delete/after-commit",
	"pds/resync/before-commit",
	"pds/resync/after-commit",

	"appview/event/before-commit",
	"appview/event/after-commit",
	"appview/log/before-commit",

	"ledger/intake/before-cursor",
	"ledger/intake/after-commit",
	"ledger/sequencer/before-begin",
	"ledger/sequencer/after-send",
	"ledger/sequencer/after-commit",
	"ledger/sequencer/after-answer",
	"ledger/checkpoint/before-sign",
	"ledger/checkpoint/after-sign",
	"ledger/checkpoint/kept",
	"ledger/checkpoint/after-write",
	"ledger/receipts/before-write",
	"ledger/receipts/after-write",
	"ledger/code/made",
	"ledger/code/burned",
	"ledger/code/used",
	"ledger/code/returned",
	"ledger/voucher/made",
	"ledger/till/opened",
	"ledger/hold/made",
	"ledger/hold/captured",
	"ledger/card/made",
	"ledger/erase/made",
	"ledger/digest/made",
	"ledger/cosign/before-keep",
	"ledger/cosign/after-keep",
	"ledger/report/after-write",
}

// Labels lists the points.
func Labels() []string { return slices.Clone(labels) }
