#include "daemon.h"

int main(int argc, char **argv)
{
    return bhfs_main(argc, argv, NULL);
}
