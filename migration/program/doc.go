// Package program asks the programs of exec policies, and shadows of any kind.
//
// A program gets one JSON object a line on its standard input, a Message, and answers with one a
// line on its standard output. Messages with a number in "question" want an answer; the k-th line
// answers question k. All others only tell.
//
//	{"event":"round","question":7,"now_ms":812.4,"remaining_pages":640,"n":3,"dirty_pages":900}
//	{"action":"switchover","reason":"few enough"}
//
// # A program can do no harm
//
// Nobody who holds a lock waits for a program, and nobody waits for long: 50 ms, and 5 ms while a
// vCPU is held at its EXIT, which is asked at most once in 100 ms. A program without an answer by
// then is late, and nothing changes because of it. One that is late three times in a row, that
// answers wrongly, or that ends is killed, and the engine goes on without it. So it does once the
// program has led for as long as it may.
//
// What a program writes is bounded: a line has a length, standard error so many lines in the log.
// Messages wait in a queue that is bounded, too. If a program does not read, messages that only
// tell are dropped and counted (Message.Missed), and questions count as late.
//
// A program is a process group of its own, so the whole group is killed. The kernel kills the
// program if this process dies.
package program
