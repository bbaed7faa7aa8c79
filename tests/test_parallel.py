from gpu_lstm.parallel import Alone, Place, place


def test_each_launcher_is_known_by_its_variables():
    mpich = {"PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"}
    assert place(mpich) == Place(3, 4, 1, 2, "PMI_SIZE")
    names = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    assert place(dict(zip(names, "4321", strict=True))) == Place(3, 4, 1, 2, "OMPI_COMM_WORLD_SIZE")
    slurm = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2"}
    assert place(slurm) == Place(1, 2, 0, None, "SLURM_STEP_NUM_TASKS")


def test_one_rank_and_a_batch_script_are_no_job_of_ranks():
    assert place({}) is None
    assert place({"PMI_SIZE": "1", "PMI_RANK": "0"}) is None
    assert place({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None  # the script, which srun has not started


def test_one_rank_alone_has_what_it_gives():
    alone = Alone()
    assert (alone.rank, alone.size, alone.local_rank, alone.local_size) == (0, 1, 0, 1)
    assert alone.gather("a") == ["a"]
    assert alone.broadcast("a") == "a"
