// Package devicetest checks that a device keeps its contract.
//
// Each device's test calls [Run], which takes the device through its life on a machine without
// vCPUs ([Board]) and checks what the contract promises: a quiesced device leaves RAM, state and
// interrupt lines alone, what it writes is marked, its state moves, and nothing that a guest or
// another host does makes it panic.
//
// [Counter] is the smallest device that acts on its own, and a good start for a new device.
package devicetest
