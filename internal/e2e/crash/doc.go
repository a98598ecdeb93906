// Package crash kills a city while it is used, and looks afterwards whether anything that it had acknowledged is missing or was done
// twice. Its test has the build tag crash, which puts the points of internal/crash into the program; `make crash` runs it.
package crash
