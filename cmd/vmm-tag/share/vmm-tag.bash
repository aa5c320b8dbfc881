# bash completion for vmm-tag

_vmm_tag() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]} words= i
	COMPREPLY=()
	case $before in
	--socket | --device)
		mapfile -t COMPREPLY < <(compgen -f -- "$word")
		return
		;;
	--group)
		mapfile -t COMPREPLY < <(compgen -g -- "$word")
		return
		;;
	esac
	if [ "$COMP_CWORD" -eq 1 ]; then
		words="daemon exec enter exit status watch"
	else
		case $command in
		daemon) words="--socket --group --device --wake --lease" ;;
		exec)
			for ((i = 2; i < COMP_CWORD; i++)); do
				if [ "${COMP_WORDS[i]}" = -- ]; then
					mapfile -t COMPREPLY < <(compgen -c -f -- "$word" | sort -u)
					return
				fi
			done
			words="--socket --while --between --"
			;;
		enter | exit) words="--socket" ;;
		status | watch) words="--socket --json" ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _vmm_tag vmm-tag
