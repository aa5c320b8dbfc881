# fish completion for vmm-tag

complete -c vmm-tag -f
set -l commands daemon exec enter exit status watch
complete -c vmm-tag -n "not __fish_seen_subcommand_from $commands" -a "$commands"
complete -c vmm-tag -n "__fish_seen_subcommand_from $commands" -l socket -rF -d "of the daemon"
complete -c vmm-tag -n "__fish_seen_subcommand_from daemon" -l group -x -d "may connect" \
	-a "(__fish_complete_groups)"
complete -c vmm-tag -n "__fish_seen_subcommand_from daemon" -l device -rF -d "its folder"
complete -c vmm-tag -n "__fish_seen_subcommand_from daemon" -l wake -x -d "how often it wakes up"
complete -c vmm-tag -n "__fish_seen_subcommand_from daemon" -l lease -x \
	-d "wake-ups until its tasks are forgotten"
complete -c vmm-tag -n "__fish_seen_subcommand_from exec" -l while -d "the run is the segment"
complete -c vmm-tag -n "__fish_seen_subcommand_from exec" -l between \
	-d "everything but the runs is"
complete -c vmm-tag -n "__fish_seen_subcommand_from exec" -a "(__fish_complete_subcommand)"
complete -c vmm-tag -n "__fish_seen_subcommand_from status watch" -l json -d "an object a line"
